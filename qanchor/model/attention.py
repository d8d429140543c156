"""Attention over one shared prefix and many suffixes in one sequence (D7), without a dense mask and without waste.

A packed sequence is `[prefix of P columns | N suffixes of S columns each]`. Prefix rows are causal over the prefix, or,
in a `hybrid` layout, see all of it: suffixes read it finished either way, so that it can be shared.
The rows of suffix n see the whole prefix and, causally, suffix n: never another suffix. Positions of every suffix
restart at the prefix's end, so each user-suffix pair computes exactly what `prefix + suffix` alone would compute.
Sliding windows (Mistral, Gemma) are counted in those positions, and scores are capped where the model caps them
(Gemma 2). The function is registered with transformers under the name `qanchor`; the layout travels through the
model's own keyword arguments, so no library code is patched.

Of the last layer only some columns of each suffix are read after it; then the queries are theirs alone, and keys and
values of all rows come along as `held` (body.py).

Shapes: B users, H heads, K heads of keys and values, G = H / K queries that share one, P prefix columns, N suffixes,
S columns of a suffix, R of them that are read, L = P + N*S, D dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "qanchor"

_HIDDEN = torch.finfo(torch.bfloat16).min
"""Score of what may not be seen: finite in every float type, so that a row of
padding only stays free of NaN."""

KeyValue = tuple[Tensor, Tensor]
"""[B, K, columns, D] each, of one layer."""
ALL = slice(None)
ALIGNED = 16
"""Numbers: 64 bytes of fp32."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a packed batch hold what. `mask` tensors are True at real tokens, False at padding."""

    prefix_mask_BP: Tensor
    suffix_mask_BNS: Tensor
    hybrid: bool = False
    """Whether prefix rows see the whole prefix, also what comes after them."""
    read: slice = field(default_factory=lambda: ALL)
    """Which columns of each suffix are read after the last layer."""

    @property
    def prefix_columns(self) -> int:
        return self.prefix_mask_BP.shape[1]

    @property
    def suffix_columns(self) -> int:
        return self.suffix_mask_BNS.shape[1] * self.suffix_mask_BNS.shape[2]

    @cached_property
    def padded_right(self) -> bool:
        """Whether no prefix has padding before a real token: then causal rows never meet it."""
        return bool((self.prefix_mask_BP[:, :-1] >= self.prefix_mask_BP[:, 1:]).all())

    @cached_property
    def position_ids(self) -> Tensor:
        """[B, P + N*S]: each token's place among the real tokens it can see; wherever the padding is, the same."""
        prefix_BP = self.prefix_mask_BP.long().cumsum(1)
        suffix_BNS = prefix_BP[:, -1:, None] + self.suffix_mask_BNS.long().cumsum(2)
        return torch.cat([prefix_BP, suffix_BNS.flatten(1)], 1).sub(1).clamp(min=0)

    @property
    def suffix_position_ids(self) -> Tensor:
        """[B, N*S] the suffixes' part of `position_ids`, for runs over a cached prefix."""
        return self.position_ids[:, self.prefix_columns :]

    def picked(self, row_BLX: Tensor) -> Tensor:
        """[B, N, R, X] those of the rows (the suffixes' are last) that are read after the last layer."""
        suffix_BLX = row_BLX[:, row_BLX.shape[1] - self.suffix_columns :]
        return suffix_BLX.view(*self.suffix_mask_BNS.shape, -1)[:, :, self.read]

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
    cached: Sequence[KeyValue] | None = None,
    held: KeyValue | None = None,
    kept: list[KeyValue] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: [B, H, L, D] queries -> [B, L, H, D].

    Key and value may have fewer heads (grouped queries). What else a model may ask of its attention is not known here:
    `backbone.pretrained_backbone` compares each one with the library's own reading.

    Args:
        cached: the prefix's keys and values, layer by layer; queries, keys and values are then the suffixes' only.
        held: keys and values in place of the layer's own; queries are then those of the columns that are read.
        kept: a list to which keys and values are added, layer by layer.
    """
    if layout is None:
        raise ValueError("the `qanchor` attention needs `layout=Layout(...)` among the model's keyword arguments")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if held is not None:
        key, value = held
    if kept is not None:
        kept.append((key, value))
    columns = layout.prefix_columns
    if cached is None:
        before, own = (key[:, :, :columns], value[:, :, :columns]), (key[:, :, columns:], value[:, :, columns:])
    else:
        before, own = cached[int(module.layer_idx)], (key, value)  # type: ignore[arg-type]
    outputs = []
    if held is None and cached is None:
        outputs.append(_prefix(query[:, :, :columns], before, layout, scale, sliding_window, softcap))
        query = query[:, :, columns:]
    if query.shape[2]:
        read = ALL if held is None else layout.read
        outputs.append(_suffixes(query * scale, before, own, layout, read, sliding_window, softcap))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), None


def _prefix(
    query: Tensor, held: KeyValue, layout: Layout, scale: float, window: int | None, cap: float | None
) -> Tensor:
    """[B, P, H, D] attention within the prefix that never looks at padding."""
    key, value = held
    if window is None and cap is None and not layout.hybrid and layout.padded_right:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
        return out.transpose(1, 2)
    columns, heads = key.shape[2], key.shape[1]
    visible_BPP = layout.prefix_mask_BP[:, None, :]
    if not layout.hybrid:
        visible_BPP = visible_BPP & torch.ones(columns, columns, dtype=torch.bool, device=key.device).tril()
    if window is not None:
        place_BP = layout.position_ids[:, :columns]
        visible_BPP = visible_BPP & _near(place_BP, place_BP, window)
    grouped = (query * scale).view(len(query), heads, -1, *query.shape[2:])  # [B, K, G, P, D]
    scores = (grouped.flatten(2, 3) @ key.transpose(-1, -2)).view(*grouped.shape[:-1], columns)
    weights = _seen(scores, visible_BPP[:, None, None], cap).softmax(-1)
    return (weights.flatten(2, 3) @ value).view(query.shape).transpose(1, 2)


def _suffixes(
    query: Tensor, before: KeyValue, own: KeyValue, layout: Layout, read: slice, window: int | None, cap: float | None
) -> Tensor:
    """[B, N*R, H, D]: one softmax over two blocks of scores, the shared prefix and the suffix's own columns."""
    batch, heads, _, width = query.shape
    count, length = layout.suffix_mask_BNS.shape[1:]
    columns, shared = layout.prefix_columns, before[0].shape[1]
    # to whole cache lines: products in fp32 round by where in memory a matrix begins
    extra = -length % ALIGNED
    own_key, own_value = (F.pad(part.view(batch, shared, count, length, width), (0, 0, 0, extra)) for part in own)

    visible_BRP = layout.prefix_mask_BP[:, None, None, :]
    causal_RS = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[read]
    visible_BNRS = causal_RS & layout.suffix_mask_BNS[:, :, None, :]
    if window is not None:
        place_BP, place_BL = layout.position_ids[:, :columns], layout.suffix_position_ids
        place_BNS = place_BL.view(batch, count, length)
        place_BNR = place_BNS[:, :, read]
        visible_BRP = visible_BRP & _near(place_BNR, place_BP[:, None], window)
        visible_BNRS = visible_BNRS & _near(place_BNR, place_BNS, window)

    visible_BNRS = F.pad(visible_BNRS, (0, extra))

    # [B, K, N, G, R, D]: queries that meet the same keys side by side
    grouped = query.view(batch, shared, heads // shared, count, -1, width).transpose(2, 3)
    fold = grouped.shape[:-1]
    on_prefix = (grouped.flatten(2, 4) @ before[0].transpose(-1, -2)).view(*fold, columns)
    on_own = (grouped.flatten(3, 4) @ own_key.transpose(-1, -2)).view(*fold, length + extra)
    seen = _seen(on_prefix, visible_BRP[:, None, :, None], cap), _seen(on_own, visible_BNRS[:, None, :, None], cap)
    weights = torch.cat(seen, -1).softmax(-1)
    from_prefix = weights[..., :columns].flatten(2, 4) @ before[1]
    from_own = weights[..., columns:].flatten(3, 4) @ own_value
    out = from_prefix.view(grouped.shape) + from_own.view(grouped.shape)
    by_row: Tensor = out.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, heads, width)
    return by_row


def _near(query_place: Tensor, key_place: Tensor, window: int) -> Tensor:
    """[..., L, L'] which keys lie less than `window` tokens from a query."""
    return (query_place[..., :, None] - key_place[..., None, :]).abs() < window


def _seen(scores: Tensor, visible: Tensor, cap: float | None) -> Tensor:
    """Products of queries and keys, capped, with what may not be seen at its lowest."""
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    return scores.masked_fill(~visible, _HIDDEN)


AttentionInterface.register(NAME, shared_prefix_attention)
