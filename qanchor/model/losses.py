"""The paper's losses as pure functions in log-space: tensors in, scalar out.

Shapes: B pairs, D dimensions of an embedding (unit length), T answer tokens, V vocabulary, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Mask = Literal["eq5", "demo", "none"]


@dataclass(frozen=True)
class Contrast:
    """The contrastive loss and what to watch while it falls (all scalars but `loss` are detached)."""

    loss: Tensor
    kept: Tensor
    """Share of candidate negatives (same-answer and other-group pairs left out) that Eq. 5 keeps."""
    positive: Tensor
    """Mean sim(u_i, v_i)."""
    negative: Tensor
    """Mean sim(u_i, v_j) over candidate negatives."""
    plateau: Tensor
    """What the unmasked loss is when all embeddings are equal: ln(3B - 2), less where answers repeat."""


def contrastive(
    user_BD: Tensor,
    answer_BD: Tensor,
    temperature: float,
    margin: float = 0.1,
    mask: Mask = "eq5",
    answer_B: Tensor | None = None,
    group_B: Tensor | None = None,
    other_BXD: Tensor | None = None,
) -> Contrast:
    r"""Query-conditioned InfoNCE of Eq. 3 over the four terms of Eq. 4, with the margin mask of Eq. 5.

        L = -1/B sum_i [ s(u_i, v_i)/tau - log Z_i ]
        Z_i = exp s(u_i,v_i)/tau + sum_{j != i} m_ij [exp s(u_i,v_j)/tau + exp s(u_i,u_j)/tau + exp s(v_i,v_j)/tau]
        m_ij = 0 where s(u_i,u_j) or s(u_i,v_j) exceeds s(u_i,v_i) + margin

    Args:
        user_BD, answer_BD: unit-length anchor embeddings u_{i,q} and answer embeddings v_{a_i}.
        mask: `eq5` is the equation read literally, one mask for all terms. `demo` is the authors' public demo: each
            term masked by its own similarity, no answer-answer term, an answer-user term s(v_i, u_j) instead.
        answer_B: ids of the answer texts; pairs with the same answer text are never negatives.
        group_B: ids of the question asked; pairs of different groups are never negatives. Left out, all are.
        other_BXD: the same users' embeddings for X other queries: hard negatives of the user-user term, masked like it.
    """
    sim_uv = user_BD @ answer_BD.T
    sim_uu = user_BD @ user_BD.T
    limit_B1 = sim_uv.diagonal()[:, None] + margin
    candidate_BB = ~torch.eye(len(user_BD), dtype=torch.bool, device=user_BD.device)
    if answer_B is not None:
        candidate_BB &= answer_B[:, None] != answer_B[None, :]
    if group_B is not None:
        candidate_BB &= group_B[:, None] == group_B[None, :]

    if mask == "demo":
        terms = [(sim, candidate_BB & (sim <= limit_B1)) for sim in (sim_uv, sim_uu, sim_uv.T)]
    else:
        kept_BB = candidate_BB
        if mask == "eq5":
            kept_BB = candidate_BB & (sim_uu <= limit_B1) & (sim_uv <= limit_B1)
        terms = [(sim, kept_BB) for sim in (sim_uv, sim_uu, answer_BD @ answer_BD.T)]

    if other_BXD is not None:
        other_BX = (other_BXD @ user_BD[:, :, None])[..., 0]
        kept_BX = other_BX <= limit_B1 if mask != "none" else torch.ones_like(other_BX, dtype=torch.bool)
        terms.append((other_BX, kept_BX))

    positive_B = sim_uv.diagonal() / temperature
    negatives = [(sim / temperature).masked_fill(~kept, -torch.inf) for sim, kept in terms]
    log_z_B = torch.cat([positive_B[:, None], *negatives], 1).logsumexp(1)
    candidates = candidate_BB.sum().clamp(min=1)
    others = 0 if other_BXD is None else other_BXD.shape[1]
    return Contrast(
        loss=(log_z_B - positive_B).mean(),
        kept=(terms[0][1].sum() / candidates).detach(),
        positive=sim_uv.diagonal().mean().detach(),
        negative=(sim_uv.masked_fill(~candidate_BB, 0).sum() / candidates).detach(),
        plateau=(3 * candidate_BB.sum(1) + others + 1).log().mean(),
    )


def next_token(logits_BTV: Tensor, token_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Next-token prediction of the answer (Eq. 6), averaged over the answer tokens of the batch.

    `logits_BTV[:, t]` is the prediction made for `token_BT[:, t]`, that is, one position before it. Eq. 6 sums over a
    sequence; the mean over tokens is the same up to scale and keeps its weight independent of answer lengths.
    """
    loss_BT = F.cross_entropy(logits_BTV.flatten(0, 1).float(), token_BT.flatten(), reduction="none")
    weight_BT = mask_BT.flatten().float()
    return (loss_BT * weight_BT).sum() / weight_BT.sum().clamp(min=1)


def prototypical(user_BD: Tensor, prototype_KD: Tensor, class_B: Tensor, temperature: float) -> Tensor:
    """The prototypical contrastive loss of soft prompt tuning (Eq. 7): cross-entropy over u^T p_k / tau."""
    return F.cross_entropy(user_BD @ F.normalize(prototype_KD, dim=-1).T / temperature, class_B)
