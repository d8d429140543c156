"""Users whose prefix was read once, to be asked later: online, another question costs its suffix only (D7).

Shapes: B users, P prefix columns of the longest of them, H heads, D width, d = D / H, W width of a text vector, Y
numbers of a tally.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qanchor.model.body import KeysValues
from qanchor.model.hierarchy import Prefix
from qanchor.model.seed import Contents
from qanchor.model.towers import Towers


@dataclass(frozen=True)
class Reading:
    """All that a question looks at of one user, without padding.

    Of the tokens that is the first alone: the others are read as keys, values and the seed's contents.
    """

    first_D: Tensor
    tally_Y: Tensor
    columns: tuple[Tensor, ...]
    """worth, text [P, ...]; the seed's worth [P, ...] and value [H, P, d], if it has one; layer by layer keys, values
    [H, P, d]: laid out as they are multiplied."""
    seeded: bool

    def __len__(self) -> int:
        """Columns of the prefix."""
        return len(self.columns[0])

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.itemsize for tensor in (self.first_D, self.tally_Y, *self.columns))


@dataclass(frozen=True)
class Batch:
    """Users side by side, as `Towers.anchor` takes them."""

    prefix: Prefix
    layers: KeysValues
    contents: Contents | None


def read(towers: Towers, prefix: Prefix) -> Iterator[Reading]:
    """Each user of a batch, padded on the right, by itself."""
    contents = towers.contents(prefix)
    # text vectors are multiplied in what the tokens are in anyway
    columns = [prefix.worth_BPS, prefix.text_BPW.to(prefix.token_BPD.dtype)]
    if contents:
        columns += [contents.worth_BPC, contents.value_BHPd]
    columns += [tensor for layer in towers.keys_values(prefix) for tensor in layer]
    first_BD = prefix.user_BD
    for b, length in enumerate(prefix.mask_BP.sum(1).tolist()):
        # copies: a view would keep the whole batch
        own = tuple(column[b, ..., :length, :].clone(memory_format=torch.contiguous_format) for column in columns)
        yield Reading(first_BD[b].clone(), prefix.tally_BY[b].clone(), own, contents is not None)


def batch(readings: Sequence[Reading]) -> Batch:
    """Users side by side again, padded on the right."""
    worth, text, *rest = (_padded(parts) for parts in zip(*(one.columns for one in readings), strict=True))
    length_B = torch.tensor([len(one) for one in readings], device=worth.device)
    mask_BP = torch.arange(worth.shape[1], device=worth.device) < length_B[:, None]
    contents = None
    if readings[0].seeded:
        seed_worth, value, *rest = rest
        contents = Contents(value, seed_worth)
    first_B1D = torch.stack([one.first_D for one in readings])[:, None]
    prefix = Prefix(first_B1D, mask_BP, worth, text, torch.stack([one.tally_Y for one in readings]))
    return Batch(prefix, list(zip(rest[::2], rest[1::2], strict=True)), contents)


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """[B, ..., P, X] of tensors [..., own P, X]."""
    longest = max(part.shape[-2] for part in parts)
    out = parts[0].new_empty(len(parts), *parts[0].shape[:-2], longest, parts[0].shape[-1])
    for row, part in zip(out, parts, strict=True):
        row[..., : part.shape[-2], :] = part
        row[..., part.shape[-2] :, :] = 0
    return out
