"""Attention over one shared prefix and many suffixes in one sequence (D7), without a dense mask and without waste.

A packed sequence is `[prefix of P columns | N suffixes of S columns each]`. Prefix rows are causal over the prefix, or,
in a `hybrid` layout, see all of it: suffixes read it finished either way, so that it can be shared.
The rows of suffix n see the whole prefix and, causally, suffix n: never another suffix. Positions of every suffix
restart at the prefix's end, so each user-suffix pair computes exactly what `prefix + suffix` alone would compute.
Sliding windows (Mistral, Gemma) are counted in those positions, and scores are capped where the model caps them
(Gemma 2). The function is registered with transformers under the name `qanchor`; the layout travels through the
model's own keyword arguments, so no library code is patched.

Of the last layer only some columns of each suffix are read after it; then the queries are theirs alone, and keys and
values of all rows come along as `held` (body.py): those of the prefix, and those of the suffixes in blocks of columns,
of which some may be the same for all users.

Shapes: B users, A those whose suffixes are told apart (1 or B), H heads, K heads of keys and values, G = H / K queries
that share one, P prefix columns, N suffixes, S columns of a suffix, X of a block of them, R that are read,
L = P + N*S, D dimensions of a head.
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
"""[B, K, columns, D] each, of one layer; of suffixes that all users share [1, K, columns, D]."""
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
    """Which columns of each suffix are read after the last layer, counted from its end."""

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
        place_BL = torch.cat([self.prefix_place_BP, self.suffix_place_BNS.flatten(1)], 1)
        return (place_BL + self.prefix_mask_BP.sum(1, keepdim=True)).clamp(min=0)

    @property
    def suffix_position_ids(self) -> Tensor:
        """[B, N*S] the suffixes' part of `position_ids`, for runs over a cached prefix."""
        return self.position_ids[:, self.prefix_columns :]

    @cached_property
    def prefix_place_BP(self) -> Tensor:
        """Places counted from where the suffixes begin: -1 is the last token before them."""
        mask_BP = self.prefix_mask_BP.long()
        return mask_BP.cumsum(1) - mask_BP.sum(1, keepdim=True) - 1

    @cached_property
    def suffix_place_BNS(self) -> Tensor:
        """The same of the suffixes' tokens: 0 is the first, whatever the prefix."""
        return (self.suffix_mask_BNS.long().cumsum(2) - 1).clamp(min=0)

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
    held: Sequence[KeyValue] | None = None,
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
        held: keys and values in place of the layer's own, of the prefix and of the blocks of columns that suffixes
            consist of; queries are then those of the columns that are read.
        kept: a list to which keys and values are added, layer by layer.
    """
    if layout is None:
        raise ValueError("the `qanchor` attention needs `layout=Layout(...)` among the model's keyword arguments")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if held is not None:
        before, *blocks = held
        return _suffixes(query * scale, before, blocks, layout, layout.read, sliding_window, softcap), None
    if kept is not None:
        kept.append((key, value))
    columns = layout.prefix_columns
    if cached is not None:
        before = cached[int(module.layer_idx)]  # type: ignore[arg-type]
        return _suffixes(query * scale, before, [(key, value)], layout, ALL, sliding_window, softcap), None
    before, own = (key[:, :, :columns], value[:, :, :columns]), (key[:, :, columns:], value[:, :, columns:])
    outputs = [_prefix(query[:, :, :columns], before, layout, scale, sliding_window, softcap)]
    if query.shape[2] > columns:
        outputs.append(_suffixes(query[:, :, columns:] * scale, before, [own], layout, ALL, sliding_window, softcap))
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
        visible_BPP = visible_BPP & _near(layout.prefix_place_BP, layout.prefix_place_BP, window)
    grouped = (query * scale).view(len(query), heads, -1, *query.shape[2:])  # [B, K, G, P, D]
    scores = (grouped.flatten(2, 3) @ key.transpose(-1, -2)).view(*grouped.shape[:-1], columns)
    weights = _seen(scores, visible_BPP[:, None, None], cap).softmax(-1)
    return (weights.flatten(2, 3) @ value).view(query.shape).transpose(1, 2)


def _suffixes(
    query: Tensor,
    before: KeyValue,
    blocks: Sequence[KeyValue],
    layout: Layout,
    read: slice,
    window: int | None,
    cap: float | None,
) -> Tensor:
    """[B, N*R, H, D]: one softmax over the scores of the shared prefix and of the suffix's own columns, block by block.

    Blocks are the columns of all suffixes one after another, [1 or B, K, N*X, D].
    """
    batch, heads, _, width = query.shape
    count, length = layout.suffix_mask_BNS.shape[1:]
    shared = before[0].shape[1]
    visible_BRP = layout.prefix_mask_BP[:, None, None, :]
    causal_RS = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[read]
    visible_BNRS = causal_RS & layout.suffix_mask_BNS[:, :, None, :]
    if window is not None:
        place_BNR = layout.suffix_place_BNS[:, :, read]
        visible_BRP = visible_BRP & _near(place_BNR, layout.prefix_place_BP[:, None], window)
        visible_BNRS = visible_BNRS & _near(place_BNR, layout.suffix_place_BNS, window)

    # [B, K, N, G, R, D]: queries that meet the same keys side by side
    grouped = query.view(batch, shared, heads // shared, count, -1, width).transpose(2, 3)
    each = [[part[:, :, None] for part in before], *([_by_suffix(part, count) for part in block] for block in blocks)]
    sizes = [key.shape[3] for key, _ in each]
    sights = [visible_BRP, *torch.split(visible_BNRS, [key.shape[2] // count for key, _ in blocks], -1)]
    scores = [
        _seen(_meet(grouped, key.transpose(-1, -2)), F.pad(sight, (0, size - sight.shape[-1]))[:, None, :, None], cap)
        for (key, _), sight, size in zip(each, sights, sizes, strict=True)
    ]
    weights = torch.split(torch.cat(scores, -1).softmax(-1), sizes, -1)
    parts = [_meet(weight, value) for weight, (_, value) in zip(weights, each, strict=True)]
    by_row: Tensor = sum(parts[1:], parts[0]).permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, heads, width)
    return by_row


def _by_suffix(part_AKLD: Tensor, count: int) -> Tensor:
    """[A, K, N, X, D], to whole cache lines: products in fp32 round by where in memory a matrix begins."""
    part_AKNXD = part_AKLD.view(*part_AKLD.shape[:2], count, -1, part_AKLD.shape[3])
    return F.pad(part_AKNXD, (0, 0, 0, -part_AKNXD.shape[3] % ALIGNED))


def _meet(row: Tensor, matrix: Tensor) -> Tensor:
    """[B, K, N, G, R, Z] products of rows [B, K, N, G, R, Y] with matrices [1 or B, K, 1 or N, Y, Z].

    Rows that meet the same matrix are multiplied together, so that it is neither copied nor read twice.
    """
    if len(matrix) < len(row):
        by_suffix = row.permute(1, 2, 0, 3, 4, 5)
        product = by_suffix.flatten(2, 4) @ matrix[0]
        return product.view(*by_suffix.shape[:-1], -1).permute(2, 0, 1, 3, 4, 5)
    product = row.flatten(3, 4) @ matrix if matrix.shape[2] == row.shape[2] else row.flatten(2, 4) @ matrix[:, :, 0]
    return product.view(*row.shape[:-1], -1)


def _near(query_place: Tensor, key_place: Tensor, window: int) -> Tensor:
    """[..., L, L'] which keys lie less than `window` tokens from a query."""
    return (query_place[..., :, None] - key_place[..., None, :]).abs() < window


def _seen(scores: Tensor, visible: Tensor, cap: float | None) -> Tensor:
    """Products of queries and keys, capped, with what may not be seen at its lowest."""
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    return scores.masked_fill(~visible, _HIDDEN)


AttentionInterface.register(NAME, shared_prefix_attention)
