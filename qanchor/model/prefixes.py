"""Many users' prefixes with their keys and values, computed once and kept in memory without padding.

Shapes: N users, L tokens of all of them one after another, B users taken, P columns of the longest of them, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.model.hierarchy import Prefix
from qanchor.model.towers import KeysValues

FIELDS = tuple(field.name for field in fields(Prefix) if field.name != "mask_BP")


class PrefixCache:
    """Prefixes one after another, and any selection of them as a padded batch again."""

    def __init__(self, parts: Iterable[tuple[Prefix, KeysValues]]) -> None:
        """Keep every (prefix, keys and values) of `parts`, in their order."""
        lengths, prefixes, caches = [], [], []
        for prefix, layers in parts:
            mask = prefix.mask_BP
            lengths.append(mask.sum(1))
            prefixes.append([getattr(prefix, name)[mask] for name in FIELDS])
            caches.append([tuple(t.transpose(1, 2)[mask] for t in layer) for layer in layers])
        self.offset_N = torch.cat([torch.zeros(1, dtype=torch.long), torch.cat(lengths).cpu().cumsum(0)])
        self.fields = [torch.cat(column) for column in zip(*prefixes, strict=True)]
        self.layers = [tuple(torch.cat(c) for c in zip(*layer, strict=True)) for layer in zip(*caches, strict=True)]

    def __len__(self) -> int:
        return len(self.offset_N) - 1

    def take(self, rows: npt.NDArray[np.int64]) -> tuple[Prefix, KeysValues]:
        """The users of `rows` as a batch, padded on the right."""
        row_B = torch.from_numpy(rows)
        start_B, length_B = self.offset_N[row_B], self.offset_N[row_B + 1] - self.offset_N[row_B]
        column_P = torch.arange(int(length_B.max()))
        device = self.fields[0].device
        mask_BP = column_P < length_B[:, None]
        # Padding repeats the user's first token; the mask hides it.
        index_BP = torch.where(mask_BP, start_B[:, None] + column_P, start_B[:, None]).to(device)
        mask_BP = mask_BP.to(device)

        def gather(flat: Tensor) -> Tensor:
            return flat[index_BP]

        columns = dict(zip(FIELDS, map(gather, self.fields), strict=True))
        columns["worth_BPS"] = columns["worth_BPS"] * mask_BP[..., None]
        return Prefix(mask_BP=mask_BP, **columns), [
            (gather(key).transpose(1, 2), gather(value).transpose(1, 2)) for key, value in self.layers
        ]
