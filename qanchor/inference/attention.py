"""Attention by modality: where `<USER_EMB>` looks in a user's prefix (Figure 7), base or tuned.

Of a model with an anchor seed it is the seed's attention, which `<USER_EMB>` starts from; of others that of the last
layer, all heads alike. The tokens of one modality count together, modality token and event tokens; the user token,
which is of none, and the suffix itself are left out.

Shapes: N users, G scenarios, M modalities, B users of a batch, P prefix columns, K heads of keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AttentionInterface

from qanchor.events.profiles import Profiles
from qanchor.inference.engine import QAnchor
from qanchor.model import attention, persistence
from qanchor.model.batch import event_tokens
from qanchor.model.towers import Towers

BATCH = 16
"""Users asked at once: the engine takes so many of any length together."""
WATCHED = "qanchor-watched"


def modality_attention(
    model: QAnchor, profiles: Profiles, scenarios: Sequence[str] = (), queries: Sequence[str] = ()
) -> npt.NDArray[np.float32]:
    """[N, G, M] shares of attention, summing to 1: first the tuned `scenarios`, then free `queries`.

    A scenario's base reading is its query among `queries`. Not for a model that another thread is asking meanwhile.

    Raises:
        ModelError: as `QAnchor.embed`.
    """
    out = np.empty((len(profiles), len(scenarios) + len(queries), len(profiles.modalities)), np.float32)
    modality_N = _modality_of_columns(model.towers, profiles)
    for start in range(0, len(profiles), BATCH):
        some = np.arange(start, min(start + BATCH, len(profiles)))
        read = model.read(profiles.take(some))
        # longest first: the order in which the engine asks
        order = np.argsort([-len(one) for one in read], kind="stable")
        with _watched(model.towers) as seen:
            model.ask([read[b] for b in order], scenarios, queries)
        (weight_BGP,) = seen
        for row, own_GP in zip(some[order], weight_BGP.numpy(), strict=True):
            out[row] = _by_modality(own_GP[:, : len(modality_N[row])], modality_N[row], out.shape[2])
    return out


def _modality_of_columns(towers: Towers, profiles: Profiles) -> list[npt.NDArray[np.int64]]:
    """[columns] of each user: the modality of each token of its prefix, -1 for the user token."""
    kinds = np.arange(len(profiles.modalities))
    coarse = np.concatenate([[-1] * towers.hierarchy.user_token, np.repeat(kinds, towers.hierarchy.modality_tokens)])
    events_NM = event_tokens(profiles, persistence.kept_events(towers))
    return [np.concatenate([coarse, np.repeat(kinds, own)]).astype(np.int64) for own in events_NM]


def _by_modality(own_GP: npt.NDArray[np.float32], modality_P: npt.NDArray[np.int64], kinds: int) -> Any:
    """[G, M] shares of one user's attention."""
    told_GM = np.stack([own_GP[:, modality_P == m].sum(1, dtype=np.float64) for m in range(kinds)], 1)
    return told_GM / told_GM.sum(1, keepdims=True)


@contextmanager
def _watched(towers: Towers) -> Iterator[list[Tensor]]:
    """Keeps [B, G, P] where the suffixes of each batch that is asked meanwhile look in its prefix."""
    seen: list[Tensor] = []
    if towers.seed is not None:
        seed = towers.seed
        hook = seed.register_forward_pre_hook(lambda _, given: seen.append(seed.attention(*given[:3]).cpu()))
        try:
            yield seen
        finally:
            hook.remove()
        return
    last = towers.backbone.config.num_hidden_layers - 1

    def watch(module: Any, query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Any:
        if module.layer_idx == last:
            seen.append(_last_layer(query, options).cpu())
        return attention.shared_prefix_attention(module, query, key, *rest, **options)

    AttentionInterface.register(WATCHED, watch)
    towers.backbone.set_attn_implementation(WATCHED)
    try:
        yield seen
    finally:
        towers.backbone.set_attn_implementation(attention.NAME)


def _last_layer(query: Tensor, options: dict[str, Any]) -> Tensor:
    """[B, G, P] softmax of each suffix's last query over the prefix alone, the mean of all heads.

    What the suffix's own columns take of the full softmax falls out of shares of the prefix. Sliding windows are not
    applied: shares are of what the layer would look at if it could.
    """
    layout, key_BKPD = options["layout"], options["cached"][-1][0]
    users, kinds, suffixes = len(key_BKPD), key_BKPD.shape[1], layout.suffix_mask_BNS.shape[1]
    # [B, K, queries that share a key, G, D] of each suffix's last row
    last = query.view(users, kinds, query.shape[1] // kinds, suffixes, -1, query.shape[-1])[..., -1, :]
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    scores = (last.flatten(2, 3) @ key_BKPD.transpose(-1, -2)).float() * scale
    if cap := options.get("softcap"):
        scores = cap * (scores / cap).tanh()
    weights = scores.masked_fill(~layout.prefix_mask_BP[:, None, None], -torch.inf).softmax(-1)
    mean_BGP: Tensor = weights.view(*last.shape[:4], -1).mean((1, 2))
    return mean_BGP
