"""Shards of a job on whatever there is to compute with: one after another here, or as tasks of a Ray cluster (D9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, Protocol

from qanchor.inference.refresh import ShardReport
from qanchor.inference.shard import Job

Engine = Literal["local", "ray"]
Work = Callable[..., ShardReport]
"""`embed_shard` or `refresh_shard`."""


class Advance(Protocol):
    def __call__(self, done: float, note: str) -> None:
        """Told of shards done (or parts of one) since it was told last, and of what it is at."""


def run(work: Work, job: Job, shards: int, advance: Advance) -> Iterator[ShardReport]:
    """The report of each shard as it is done. Whatever was done stays when this ends early."""
    for shard in range(shards):
        yield work(job, shard, partial(advance, note=f"shard {shard}"))
