"""The processes of one run: `torchrun` starts them, each holds its own users, and they add up what they found.

A rank is the null object of one process: sums of one are what they were, and nobody is waited for.
"""

from __future__ import annotations

import atexit
import datetime as dt
import functools
import os

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import torch.distributed as dist
from torch import Tensor

from qanchor.events.shards import shard_of
from qanchor.model.backbone import device

PATIENCE = dt.timedelta(days=2)
"""For one another: as long as rank 0 may need to ingest. `torchrun` ends the ranks that wait for a dead one."""


class Ranks:
    """One process that is all of its run."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def sum(self, tensors: list[Tensor]) -> None:
        """Add each tensor up over the ranks, in place, the same everywhere."""

    def wait(self) -> None:
        """Until every rank is here."""

    def own(self, user_ids: pl.Series) -> npt.NDArray[np.bool_]:
        """[N] whose users are this rank's: all events and pairs of a user live with one rank."""
        own: npt.NDArray[np.bool_] = shard_of(user_ids, self.size) == self.rank
        return own


ALONE = Ranks()


class Torchrun(Ranks):
    """One process of several, by gloo on CPUs and NCCL on GPUs."""

    def __init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, tensors: list[Tensor]) -> None:
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            own = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in own])
            dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in own])
            for tensor, part in zip(own, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        dist.barrier()


@functools.cache
def join() -> Ranks:
    """The ranks that `torchrun` started (RANK, WORLD_SIZE, LOCAL_RANK in the environment), or one process alone."""
    return Torchrun() if "RANK" in os.environ else ALONE
