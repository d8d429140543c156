"""Users whose prefix was read once, to be asked later: online, another question costs its suffix only (D7).

Shapes: B users, P prefix columns of the longest of them, H heads, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from qanchor.model.body import KeysValues
from qanchor.model.hierarchy import Prefix


@dataclass(frozen=True)
class Reading:
    """One user's prefix without padding: token, worth, text [P, ...], and layer by layer keys, values [P, H, D]."""

    tensors: tuple[Tensor, ...]

    def __len__(self) -> int:
        """Columns of the prefix."""
        return len(self.tensors[0])

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.itemsize for tensor in self.tensors)


def split(prefix: Prefix, layers: KeysValues) -> Iterator[Reading]:
    """Each user of a batch, padded on the right, by itself."""
    columns = [prefix.token_BPD, prefix.worth_BPS, prefix.text_BPW]
    columns += [tensor.transpose(1, 2) for layer in layers for tensor in layer]
    for b, length in enumerate(prefix.mask_BP.sum(1).tolist()):
        # copies: a view would keep the whole batch
        yield Reading(tuple(column[b, :length].clone() for column in columns))


def batch(readings: Sequence[Reading]) -> tuple[Prefix, KeysValues]:
    """Users side by side again, padded on the right."""
    token, worth, text, *rest = (
        pad_sequence([one.tensors[n] for one in readings], batch_first=True) for n in range(len(readings[0].tensors))
    )
    length_B = torch.tensor([len(one) for one in readings], device=token.device)
    mask_BP = torch.arange(token.shape[1], device=token.device) < length_B[:, None]
    heads_first = [tensor.transpose(1, 2) for tensor in rest]
    return Prefix(token, mask_BP, worth, text), list(zip(heads_first[::2], heads_first[1::2], strict=True))
