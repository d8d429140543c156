"""Where `<USER_EMB>` looks: shares of its attention to the prefix, by modality (Figure 7).

Shapes: N users, B of a batch, G suffixes, M modalities, P prefix columns, H heads, K heads of keys, D of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from qanchor.events.profiles import Profiles
from qanchor.inference.engine import PREFIX_BATCH, QAnchor
from qanchor.model import attention, persistence
from qanchor.model.batch import Batch, collate
from qanchor.model.towers import Tokens, Towers
from qanchor.training.pretrain import autocast

NAME = "qanchor-watched"
_seen: ContextVar[list[Tensor]] = ContextVar("seen")
"""[B, G, P] of each layer: what `<USER_EMB>` gives the prefix, mean over heads."""


def modality_attention(
    model: QAnchor, profiles: Profiles, scenarios: Sequence[str] = (), queries: Sequence[str] = ()
) -> npt.NDArray[np.float64]:
    """[N, G, M] shares that sum to 1 of what `<USER_EMB>` gives modality and event tokens, mean of layers and heads.

    First the tuned `scenarios`, then free `queries` with the shared prompt, as `QAnchor.embed`. The user token belongs
    to no modality, and the suffix itself is left out.

    Raises:
        ModelError: as `QAnchor.embed`.
    """
    model._expect(profiles.modalities)
    tokens, prompt_1GKD = model._suffixes(scenarios, queries)
    indexed, backbone = model._texts(profiles), model.towers.backbone
    parts = []
    backbone.set_attn_implementation(NAME)
    try:
        with torch.inference_mode(), autocast(model.towers):
            for start in range(0, len(profiles), PREFIX_BATCH):
                rows = np.arange(start, min(start + PREFIX_BATCH, len(profiles)))
                batch = collate(profiles, rows, persistence.kept_events(model.towers))
                parts.append(_shares(model.towers, batch, indexed, tokens, prompt_1GKD))
    finally:
        backbone.set_attn_implementation(attention.NAME)
    return torch.cat(parts).cpu().numpy()


def _shares(towers: Towers, batch: Batch, indexed: Any, tokens: Tokens, prompt_1GKD: Tensor) -> Tensor:
    query_1G = torch.arange(prompt_1GKD.shape[1], device=towers.device)[None]
    prefix, before = towers.prefix(batch, indexed), _seen.set([])
    try:
        towers.anchor(prefix, tokens, query_1G, prompt_1GKD, towers.keys_values(prefix))
        weight_BGP = torch.stack(_seen.get()).mean(0)
    finally:
        _seen.reset(before)
    share_BGM = weight_BGP @ _modalities(batch, weight_BGP.shape[-1]).to(weight_BGP)
    return share_BGM / share_BGM.sum(-1, keepdim=True)


def _modalities(batch: Batch, columns: int) -> Tensor:
    """[B, P, M] 1 where a prefix column is of a modality."""
    users, modalities = batch.count_BMC.shape[:2]
    of_BPM = torch.zeros(users, columns, modalities)
    of_BPM[:, 1 : 1 + modalities] = torch.eye(modalities)
    kept = batch.entry_slot_R >= 0
    of_BPM[batch.entry_owner_R[kept], 1 + modalities + batch.entry_slot_R[kept], batch.entry_modality_R[kept]] = 1
    return of_BPM


def _watched(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **told: Any) -> Any:
    """Our attention, which also notes how the last column of each suffix weighs the prefix."""
    layout, cached = told["layout"], told.get("cached")
    if cached is not None:
        key_BKPD = cached[int(module.layer_idx)][0]  # type: ignore[arg-type]
        users, heads, _, width = query.shape
        last_BHGD = query.reshape(users, heads, layout.suffix_mask_BNS.shape[1], -1, width)[:, :, :, -1]
        scale = width**-0.5 if told.get("scaling") is None else told["scaling"]
        key_BHPD = key_BKPD.repeat_interleave(heads // key_BKPD.shape[1], 1)
        score_BHGP = (last_BHGD.float() @ key_BHPD.float().transpose(-1, -2)) * scale
        weight_BHGP = score_BHGP.masked_fill(~layout.prefix_mask_BP[:, None, None], -torch.inf).softmax(-1)
        _seen.get().append(weight_BHGP.double().mean(1))
    return attention.shared_prefix_attention(module, query, key, value, mask, **told)


AttentionInterface.register(NAME, _watched)
