"""What a run shows at every validation, and what it warns of: a falling loss does not tell whether anything is learned.

Shapes: B users of a batch, N questions each, O width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qanchor.config import Pretrain
from qanchor.model.head import Centre
from qanchor.training.objective import Objective, Seen
from qanchor.training.speed import matmul_rate

BATCHES = 8
"""Fixed batches of validation users."""
NEAR, FEW, ALIKE, ROUTED = 0.02, 0.01, 0.95, 0.01
"""When to warn: loss this near the plateau, fewer negatives kept, embeddings more alike, own minus swapped below."""


@dataclass(frozen=True)
class Step:
    """What one step measured."""

    phase: str
    step: int
    loss: float
    contrastive: float
    ntp: float
    kept: float
    positive: float
    negative: float
    norm: float
    """Of the gradient, before clipping."""
    masked: bool
    """Whether the mask of Eq. 5 was on."""
    pairs: int
    tokens: int
    """Read by this rank."""
    seconds: float


@dataclass(frozen=True)
class Validation:
    """How validation users stand after `step` steps of `phase`, and how the steps since the last one went."""

    phase: str
    step: int
    loss: float
    """Contrastive, without the mask."""
    best: float
    positive: float
    negative: float
    recall_1: float
    recall_10: float
    """Of a user's answer among those of the batch's users to the same question, by the user's embedding."""
    own_minus_swapped: float
    """recall_10 less that by the same users' embeddings for another question: 0 until the model routes by query."""
    kept: float
    """Share of negatives that the mask kept in training."""
    gradient_mean: float
    gradient_max: float
    """Of the |g| of the last step (Figure 11)."""
    pairs_per_second: float
    tokens_per_second: float
    """Of this rank."""
    mfu: float
    """The FLOPs of those tokens against what this machine reaches in products."""
    warnings: tuple[str, ...]

    @property
    def line(self) -> str:
        """What fits beside a progress bar."""
        return (
            f"validation {self.loss:.3f} best {self.best:.3f} sim {self.positive:.2f}/{self.negative:.2f} "
            f"recall@1 {self.recall_1:.2f} @10 {self.recall_10:.2f} own-swapped {self.own_minus_swapped:.2f} "
            f"{self.pairs_per_second:,.0f} pairs/s MFU {self.mfu:.0%}"
        )


class Watch:
    """Looks at validation users, in the same batches every time."""

    def __init__(self, objective: Objective, settings: Pretrain, seed: int) -> None:
        self.objective, self.settings = objective, settings
        pairs = objective.corpus.pairs
        # always of common questions, however training draws: retrieval is among answers to the same question
        self.drawn = [
            pairs.draw(np.random.default_rng((seed, 1, i)), settings.batch, max(2, settings.pairs))
            for i in range(BATCHES)
        ]
        self.rate = matmul_rate(objective.towers.device, objective.towers.dtype)

    def look(
        self, since: Sequence[Step], progress: float, best: float, gradient: tuple[float, float], flops: float
    ) -> Validation:
        """After the steps of `since`, those since the last look.

        Args:
            progress: share of all steps of the run that are done.
            best: lowest validation loss before.
            gradient: mean and maximum of |g| in the last step.
            flops: of a token, forward and backward, in this phase.
        """
        last, seconds = since[-1], sum(step.seconds for step in since)
        seen = [self.objective.look(drawn, last.phase == "align") for drawn in self.drawn]
        loss = _mean([part.contrast.loss for part in seen])
        own = [recall(part.user_BNO, part.answer_BNO, part.text_BN, 10) for part in seen]
        swapped = [recall(part.user_BNO.roll(1, 1), part.answer_BNO, part.text_BN, 10) for part in seen]
        routed = float(np.mean(own) - np.mean(swapped))
        tokens_per_second = sum(step.tokens for step in since) / seconds
        return Validation(
            phase=last.phase,
            step=last.step,
            loss=loss,
            best=min(loss, best),
            positive=_mean([part.contrast.positive for part in seen]),
            negative=_mean([part.contrast.negative for part in seen]),
            recall_1=float(np.mean([recall(part.user_BNO, part.answer_BNO, part.text_BN, 1) for part in seen])),
            recall_10=float(np.mean(own)),
            own_minus_swapped=routed,
            kept=float(np.mean([step.kept for step in since])),
            gradient_mean=gradient[0],
            gradient_max=gradient[1],
            pairs_per_second=sum(step.pairs for step in since) / seconds,
            tokens_per_second=tokens_per_second,
            mfu=tokens_per_second * flops / self.rate,
            warnings=tuple(_warnings(since, seen, loss, routed, progress)),
        )


def recall(user_BNO: Tensor, answer_BNO: Tensor, text_BN: Tensor, k: int) -> float:
    """How often a user's own answer is among the k nearest of its column's answers.

    Other users' answers of the same text are no competitors, and a tie is lost, so that equal embeddings find nothing.
    """
    sim_NBB = torch.einsum("ino,jno->nij", user_BNO, answer_BNO)
    own_NB1 = sim_NBB.diagonal(dim1=1, dim2=2)[..., None]
    other_NBB = text_BN.T[:, :, None] != text_BN.T[:, None, :]
    ahead_NB = ((sim_NBB >= own_NB1) & other_NBB).sum(2)
    return (ahead_NB < k).float().mean().item()


def likeness(user_BNO: Tensor) -> float:
    """Mean |cosine| of two users' embeddings for the same question; 1 when they lie on one line."""
    users = len(user_BNO)
    total_N = torch.einsum("ino,jno->nij", user_BNO, user_BNO).abs().sum((1, 2)) - users
    return (total_N / (users * (users - 1))).mean().item()


def _warnings(
    since: Sequence[Step], seen: Sequence[Seen], loss: float, routed: float, progress: float
) -> Iterator[str]:
    plateau = _mean([part.contrast.plateau for part in seen])
    if abs(loss - plateau) < NEAR:
        yield (
            f"the loss sits at {plateau:.2f} = ln(3B - 2), the value of equal embeddings: the model has collapsed; "
            "align for longer, lower `lr`, or take smaller batches"
        )
    kept = [step.kept for step in since if step.masked]
    if kept and np.mean(kept) < FEW:
        yield (
            f"the mask keeps {np.mean(kept):.1%} of the negatives, so there is nothing to learn from: raise `margin` "
            "or `mask_after`, or set `mask: none`"
        )
    alike, spread = np.mean([likeness(part.user_BNO) for part in seen]), _mean([part.spread for part in seen])
    if alike > ALIKE or spread < Centre.EPSILON:
        yield (
            f"user embeddings collapse: mean |cosine| {alike:.2f}, variance of their projections {spread:.1e}; "
            "lower `lr`, or align for longer"
        )
    if progress >= 0.5 and routed < ROUTED:
        yield (
            f"after {progress:.0%} of the steps, another question's embedding finds the answers as well (recall@10 own "
            f"minus swapped {routed:.3f}): the model does not route by query; align for longer"
        )


def _mean(values: Sequence[Tensor]) -> float:
    return torch.stack(list(values)).mean().item()
