"""Many users' prefixes with their keys and values, computed once and kept without padding, wherever there is room.

Shapes: N users, L tokens of all of them one after another, X words of a token's record, B users taken, P columns of the
longest of them, D width, Y numbers of a tally.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.errors import TrainingError
from qanchor.model.body import KeysValues
from qanchor.model.hierarchy import Prefix

FIELDS = tuple(field.name for field in fields(Prefix) if field.name not in ("mask_BP", "tally_BY"))
"""What there is of each token."""
GIB = 2**30


class Records:
    """An [L, X] table of 32-bit words that grows at its end, and moves on when it outgrows a place.

    It begins on the model's own device (a GPU: half of what this process may still take there), goes on in memory up to
    a limit, and then in a file without a name: mapped into memory, it is read as it is asked for, and the operating
    system takes it back when the run ends or is killed.
    """

    def __init__(self, device: torch.device, limit: int, folder: Path | None) -> None:
        self.folder = folder
        self.rooms = [(torch.device("cpu"), limit)]
        if device.type == "cuda":
            self.rooms.insert(0, (device, _free(device) // 2))
        self.parts: list[Tensor] = []
        self.file: IO[bytes] | None = None
        self.shape = (0, 0)

    @property
    def place(self) -> str:
        return str(self.rooms[0][0]) if self.rooms else "disk"

    def append(self, word_LX: Tensor) -> None:
        self.shape = (self.shape[0] + len(word_LX), word_LX.shape[1])
        self.parts.append(word_LX)
        while self.rooms and 4 * self.shape[0] * self.shape[1] > self.rooms[0][1]:
            del self.rooms[0]
        if not self.rooms:
            self._spill()
        elif self.parts[0].device != self.rooms[0][0] or word_LX.device != self.rooms[0][0]:
            self.parts = [part.to(self.rooms[0][0]) for part in self.parts]

    def table(self) -> Tensor:
        """All of it as one tensor; nothing can be added any more."""
        if self.file:
            self.file.flush()
            # copy-on-write: torch asks for an array that may be written, and nobody does
            mapped = np.memmap(self.file, np.int32, "c", shape=self.shape)
            self.file.close()
            return torch.from_numpy(mapped)
        word_LX = torch.empty(self.shape, dtype=torch.int32, device=self.parts[0].device)
        start = 0
        while self.parts:  # one by one, so that no two copies of all are held
            part = self.parts.pop(0)
            word_LX[start : start + len(part)] = part
            start += len(part)
        return word_LX

    def _spill(self) -> None:
        if not self.file:
            if self.folder:
                self.folder.mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        for part in self.parts:
            self.file.write(part.cpu().numpy().data)
        self.parts = []


def _free(device: torch.device) -> int:
    """Bytes of a GPU that this process may still take: those that are free, within the share that it was given.

    Processes that share a GPU are each given one by `torch.cuda.set_per_process_memory_fraction`.
    """
    free, whole = torch.cuda.mem_get_info(device)
    share = int(torch.cuda.get_per_process_memory_fraction(device) * whole)
    return max(0, min(free, share - torch.cuda.memory_reserved(device)))


@dataclass(frozen=True)
class Column:
    """Where a record holds one tensor's values: words `start` to `stop`, of a type and of the shape of one token's."""

    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self, word_BPX: Tensor) -> Tensor:
        return word_BPX[..., self.start : self.stop].view(self.dtype).view(*word_BPX.shape[:-1], *self.shape)


class PrefixCache:
    """Prefixes as records of their tokens, and any selection of them as a padded batch again.

    A token's record holds all that is kept of it side by side, so that a user is one stretch of memory, or of disk.
    """

    def __init__(
        self, parts: Iterable[tuple[Prefix, KeysValues]], memory_gb: float = 4, folder: Path | None = None
    ) -> None:
        """Keep every (prefix, keys and values) of `parts`, in their order.

        Args:
            memory_gb: GiB of memory that they may take; past that they are kept on disk.
            folder: where, then; left out, the system's place for temporary files.

        Raises:
            TrainingError: there is not a single prefix.
        """
        lengths: list[Tensor] = []
        tallies: list[Tensor] = []
        records: Records | None = None
        for prefix, layers in parts:
            tensors = _per_token(prefix, layers)
            if records is None:
                self.device = prefix.mask_BP.device
                self.columns = _columns(tensors)
                records = Records(self.device, int(memory_gb * GIB), folder)
            lengths.append(prefix.mask_BP.sum(1))
            tallies.append(prefix.tally_BY)
            records.append(torch.cat([tensor.flatten(1).view(torch.int32) for tensor in tensors], 1))
        if records is None:
            raise TrainingError("no users to keep prefixes of, expected at least one: widen `windows` or `users`")
        self.place = records.place
        """`cuda:0`, `cpu` or `disk`."""
        self.word_LX = records.table()
        self.tally_NY = torch.cat(tallies)
        self.length_N = torch.cat(lengths).cpu()
        self.start_N = self.length_N.cumsum(0) - self.length_N

    def __len__(self) -> int:
        return len(self.length_N)

    @property
    def nbytes(self) -> int:
        return self.word_LX.numel() * self.word_LX.itemsize

    def take(self, rows: npt.NDArray[np.int64]) -> tuple[Prefix, KeysValues]:
        """The users of `rows` as a batch on the model's device, padded on the right."""
        row_B = torch.from_numpy(rows)
        start_B1, length_B1 = self.start_N[row_B][:, None], self.length_N[row_B][:, None]
        column_P = torch.arange(int(length_B1.max()))
        mask_BP = column_P < length_B1
        # Padding repeats the user's first token; the mask hides it.
        index_BP = torch.where(mask_BP, start_B1 + column_P, start_B1)
        word_RX = self.word_LX.index_select(0, index_BP.flatten().to(self.word_LX.device))
        word_BPX = word_RX.to(self.device).view(*index_BP.shape, -1)
        mask_BP = mask_BP.to(self.device)

        tensors = [column.read(word_BPX) for column in self.columns]
        own = dict(zip(FIELDS, tensors[: len(FIELDS)], strict=True))
        own["worth_BPS"] = own["worth_BPS"] * mask_BP[..., None]
        heads_first = [tensor.transpose(1, 2) for tensor in tensors[len(FIELDS) :]]
        tally_BY = self.tally_NY[row_B.to(self.tally_NY.device)]
        return Prefix(mask_BP=mask_BP, tally_BY=tally_BY, **own), list(
            zip(heads_first[::2], heads_first[1::2], strict=True)
        )


def _per_token(prefix: Prefix, layers: KeysValues) -> list[Tensor]:
    """[L, ...] each: the prefix's fields, then keys and values layer by layer, of its real tokens."""
    # text vectors are multiplied in what the tokens are in anyway: kept in that, they take no more than is read
    prefix = replace(prefix, text_BPW=prefix.text_BPW.to(prefix.token_BPD.dtype))
    mask_BP = prefix.mask_BP
    own = [getattr(prefix, name)[mask_BP] for name in FIELDS]
    return own + [tensor.transpose(1, 2)[mask_BP] for layer in layers for tensor in layer]


def _columns(tensors: list[Tensor]) -> list[Column]:
    """Where each of these stands in a record."""
    words = [tensor[0].numel() * tensor.itemsize // 4 for tensor in tensors]
    stops = np.cumsum(words).tolist()
    return [
        Column(stop - size, stop, tensor.dtype, tuple(tensor.shape[1:]))
        for stop, size, tensor in zip(stops, words, tensors, strict=True)
    ]
