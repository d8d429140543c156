"""Prefixes that were read lately, with their keys and values, so that another question costs a user its suffix only.

Shapes: B users of a batch, P prefix columns of the longest of them, H heads, D dimensions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from qanchor.model.body import KeysValues
from qanchor.model.hierarchy import Prefix

Key = tuple[str, bytes]
"""User, and a hash of all that the prefix depends on (`live.Live.key`)."""


@dataclass(frozen=True)
class State:
    """One user's prefix without padding: token, worth, text [P, ...], and layer by layer keys, values [P, H, D]."""

    tensors: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.itemsize for tensor in self.tensors)


class Warm:
    """The least recently used are dropped once all together are larger than `limit` bytes. For one thread."""

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._states: OrderedDict[Key, State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, key: Key) -> State | None:
        state = self._states.get(key)
        if state:
            self._states.move_to_end(key)
        return state

    def put(self, key: Key, state: State) -> None:
        self._drop(key)
        self._states[key] = state
        self.nbytes += state.nbytes
        while self.nbytes > self.limit:
            self._drop(next(iter(self._states)))

    def forget(self, user_id: str) -> None:
        for key in [key for key in self._states if key[0] == user_id]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        if state := self._states.pop(key, None):
            self.nbytes -= state.nbytes


def split(prefix: Prefix, layers: KeysValues) -> Iterator[State]:
    """Each user of a batch, padded on the right, by itself."""
    columns = [prefix.token_BPD, prefix.worth_BPS, prefix.text_BPW]
    columns += [tensor.transpose(1, 2) for layer in layers for tensor in layer]
    for b, length in enumerate(prefix.mask_BP.sum(1).tolist()):
        # copies: a view would keep the whole batch
        yield State(tuple(column[b, :length].clone() for column in columns))


def batch(states: Sequence[State]) -> tuple[Prefix, KeysValues]:
    """Users side by side again, padded on the right."""
    token, worth, text, *rest = (
        pad_sequence([state.tensors[n] for state in states], batch_first=True) for n in range(len(states[0].tensors))
    )
    length_B = torch.tensor([len(state.tensors[0]) for state in states], device=token.device)
    mask_BP = torch.arange(token.shape[1], device=token.device) < length_B[:, None]
    heads_first = [tensor.transpose(1, 2) for tensor in rest]
    return Prefix(token, mask_BP, worth, text), list(zip(heads_first[::2], heads_first[1::2], strict=True))
