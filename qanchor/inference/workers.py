"""Shards of a job on whatever there is to compute with: one after another here, or as tasks of a Ray cluster (D9).

A task gets paths and a number, never rows. A dead worker's shards run again elsewhere, and since what a shard had done
stands in its files, nothing is computed or written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, Protocol

from qanchor.errors import ConfigError, DataError
from qanchor.inference.refresh import ShardReport
from qanchor.inference.shard import Job

Engine = Literal["local", "ray"]
Work = Callable[..., ShardReport]
"""`embed_shard` or `refresh_shard`."""
RETRIES = 5
"""How often a shard is run again whose worker, or whose node, has died."""


class Advance(Protocol):
    def __call__(self, done: float, note: str) -> None:
        """Told of shards done (or parts of one) since it was told last, and of what it is at."""


def run(
    work: Work, job: Job, shards: int, advance: Advance, engine: Engine = "local", address: str | None = None
) -> Iterator[ShardReport]:
    """The report of each shard as it is done. What was done stays when this ends early.

    Args:
        address: of a running Ray cluster; left out, the one of the environment (RAY_ADDRESS), or one of this machine.

    Raises:
        ConfigError: Ray is not installed.
        DataError: a shard's worker died again and again; or whatever a shard's own work raises.
    """
    if engine == "ray":
        yield from _on_ray(work, job, shards, advance, address)
        return
    for shard in range(shards):
        yield work(job, shard, partial(advance, note=f"shard {shard}"))


def _on_ray(work: Work, job: Job, shards: int, advance: Advance, address: str | None) -> Iterator[ShardReport]:
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs Ray: pip install 'qanchor[ray]'") from None
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    # a GPU of its own for each task where there are any; on CPUs a core, since shards side by side waste less
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(work)
    waiting: dict[Any, int] = {task.remote(job, shard): shard for shard in range(shards)}
    try:
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            shard = waiting.pop(done)
            try:
                report: ShardReport = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise DataError(
                    f"shard {shard} was lost {RETRIES + 1} times with its worker or node ({type(error).__name__}): "
                    "look at their memory, then run the same command again"
                ) from error
            advance(1.0, f"shard {shard}")
            yield report
    finally:
        for unfinished in waiting:
            ray.cancel(unfinished, force=True)
