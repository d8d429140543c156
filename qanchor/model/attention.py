"""Attention over one shared prefix and many suffixes in one sequence (D7), without a dense mask and without waste.

A packed sequence is `[prefix of P columns | N suffixes of S columns each]`. Prefix rows are causal over the prefix, or,
in a `hybrid` layout, see all of it: suffixes read it finished either way, so that it can be shared.
The rows of suffix n see the whole prefix and, causally, suffix n: never another suffix. Positions of every suffix
restart at the prefix's end, so each user-suffix pair computes exactly what `prefix + suffix` alone would compute.
Sliding windows (Mistral, Gemma) are counted in those positions, and scores are capped where the model caps them
(Gemma 2). The function is registered with transformers under the name `qanchor`; the layout travels through the
model's own keyword arguments, so no library code is patched.

Shapes: B users, H heads, P prefix columns, N suffixes, S columns of a suffix, L = P + N*S, D dimensions of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "qanchor"

_HIDDEN = torch.finfo(torch.bfloat16).min
"""Score of what may not be seen: finite in every float type, so that a row of
padding only stays free of NaN."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a packed batch hold what. `mask` tensors are True at real tokens, False at padding."""

    prefix_mask_BP: Tensor
    suffix_mask_BNS: Tensor
    hybrid: bool = False
    """Whether prefix rows see the whole prefix, also what comes after them."""

    @property
    def prefix_columns(self) -> int:
        return self.prefix_mask_BP.shape[1]

    @property
    def suffix_columns(self) -> int:
        return self.suffix_mask_BNS.shape[1] * self.suffix_mask_BNS.shape[2]

    @property
    def position_ids(self) -> Tensor:
        """[B, P + N*S]: each token's place among the real tokens it can see; wherever the padding is, the same."""
        prefix_BP = self.prefix_mask_BP.long().cumsum(1)
        suffix_BNS = prefix_BP[:, -1:, None] + self.suffix_mask_BNS.long().cumsum(2)
        return torch.cat([prefix_BP, suffix_BNS.flatten(1)], 1).sub(1).clamp(min=0)

    @property
    def suffix_position_ids(self) -> Tensor:
        """[B, N*S] the suffixes' part of `position_ids`, for runs over a cached prefix."""
        return self.position_ids[:, self.prefix_columns :]

    @classmethod
    def plain(cls, mask_BL: Tensor, hybrid: bool = False) -> Layout:
        """One sequence a row, no suffixes."""
        return cls(mask_BL, mask_BL.new_zeros(len(mask_BL), 0, 0), hybrid)


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: [B, H, L, D] queries -> [B, L, H, D].

    Key and value may have fewer heads (grouped queries). With a cached prefix the queries are the suffixes' only,
    while keys and values span prefix and suffixes. What else a model may ask of its attention is not known here:
    `backbone.pretrained_backbone` compares each one with the library's own reading.
    """
    if layout is None:
        raise ValueError("the `qanchor` attention needs `layout=Layout(...)` among the model's keyword arguments")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    query = query * scale
    columns = layout.prefix_columns
    outputs = []
    if query.shape[2] != layout.suffix_columns:
        prefix = slice(0, columns)
        parts = query[:, :, prefix], key[:, :, prefix], value[:, :, prefix]
        outputs.append(_prefix(*parts, layout, sliding_window, softcap))
    if layout.suffix_columns:
        outputs.append(_suffixes(query[:, :, -layout.suffix_columns :], key, value, layout, sliding_window, softcap))
    return torch.cat(outputs, 2).transpose(1, 2), None


def _prefix(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, cap: float | None) -> Tensor:
    """[B, H, P, D] attention within the prefix that never looks at padding."""
    columns = key.shape[2]
    visible_BPP = layout.prefix_mask_BP[:, None, :]
    if not layout.hybrid:
        visible_BPP = visible_BPP & torch.ones(columns, columns, dtype=torch.bool, device=key.device).tril()
    if window is not None:
        place_BP = layout.position_ids[:, :columns]
        visible_BPP = visible_BPP & _near(place_BP, place_BP, window)
    return _scores(query, key, visible_BPP[:, None], cap).softmax(-1) @ value


def _suffixes(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, cap: float | None
) -> Tensor:
    """[B, H, N*S, D]: one softmax over two blocks of scores, the shared prefix and the suffix's own columns."""
    batch, heads, _, width = query.shape
    count, length = layout.suffix_mask_BNS.shape[1:]
    columns = layout.prefix_columns
    fold = (batch, heads, count, length, width)
    own_key, own_value = key[:, :, columns:].reshape(fold), value[:, :, columns:].reshape(fold)

    visible_BLP = layout.prefix_mask_BP[:, None, :]
    causal_SS = torch.ones(length, length, dtype=torch.bool, device=key.device).tril()
    visible_BNSS = causal_SS & layout.suffix_mask_BNS[:, :, None, :]
    if window is not None:
        place_BP, place_BL = layout.position_ids[:, :columns], layout.suffix_position_ids
        place_BNS = place_BL.view(batch, count, length)
        visible_BLP = visible_BLP & _near(place_BL, place_BP, window)
        visible_BNSS = visible_BNSS & _near(place_BNS, place_BNS, window)
    on_prefix = _scores(query, key[:, :, :columns], visible_BLP[:, None], cap)
    on_own = _scores(query.reshape(fold), own_key, visible_BNSS[:, None], cap)

    scores = torch.cat([on_prefix.reshape(batch, heads, count, length, columns), on_own], -1)
    weights = scores.softmax(-1)
    from_prefix = weights[..., :columns].reshape(batch, heads, count * length, columns) @ value[:, :, :columns]
    from_own = weights[..., columns:] @ own_value
    return from_prefix + from_own.reshape(batch, heads, count * length, width)


def _near(query_place: Tensor, key_place: Tensor, window: int) -> Tensor:
    """[..., L, L'] which keys lie less than `window` tokens from a query."""
    return (query_place[..., :, None] - key_place[..., None, :]).abs() < window


def _scores(query: Tensor, key: Tensor, visible: Tensor, cap: float | None) -> Tensor:
    """Products of queries and keys, capped, with what may not be seen at its lowest."""
    scores = query @ key.transpose(-1, -2)
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    return scores.masked_fill(~visible, _HIDDEN)


AttentionInterface.register(NAME, shared_prefix_attention)
