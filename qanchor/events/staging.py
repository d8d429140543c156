"""Parsed events on disk between reading and publishing, grouped by day and shard, so that memory stays bounded.

Nothing here outlives a run: a new run clears the folder first, whatever an old one left.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from qanchor.events.profiles import DAY
from qanchor.events.shards import shard_of

COLUMNS = ("user_id", "second", "modality", "text", "value")


@dataclass(frozen=True)
class _Run:
    """One record batch of one staged file: the rows of one day and shard."""

    part: str
    file: Path
    batch: int
    rows: int


class Staging:
    def __init__(self, folder: Path, shards: int):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self._shards = shards
        self._runs: dict[int, dict[int, list[_Run]]] = defaultdict(lambda: defaultdict(list))
        self._files = 0

    def add(self, part: str, events: pl.DataFrame) -> None:
        """Put down one batch: user_id String, time Int64 seconds, modality UInt8, text UInt64, value Float32."""
        if events.is_empty():
            return
        bucket = (pl.col("time") // DAY * self._shards + pl.col("shard")).alias("bucket")
        table = (
            events.with_columns(pl.Series("shard", shard_of(events["user_id"], self._shards)))
            .select(bucket, (pl.col("time") % DAY).cast(pl.Int32).alias("second"), pl.exclude("time", "shard"))
            .sort("bucket")
        )
        buckets, starts = np.unique(table["bucket"].to_numpy(), return_index=True)
        ends = np.append(starts[1:], len(table))
        path = self.folder / f"{self._files:06d}.arrow"
        self._files += 1
        data = table.select(COLUMNS).to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, data.schema) as writer:
            for number, (bucket_id, start, end) in enumerate(zip(buckets, starts, ends, strict=True)):
                writer.write_table(data.slice(start, end - start))
                day, shard = divmod(int(bucket_id), self._shards)
                self._runs[day][shard].append(_Run(part, path, number, int(end - start)))

    def drop(self, part: str) -> None:
        """Forget a refused file's rows."""
        for shards in self._runs.values():
            for shard, runs in shards.items():
                shards[shard] = [run for run in runs if run.part != part]

    def days(self) -> set[int]:
        """Days (since 1970-01-01) that have rows."""
        return {day for day, shards in self._runs.items() if any(shards.values())}

    def counts(self, day: int) -> dict[str, int]:
        """Rows of a day by part."""
        counts: dict[str, int] = defaultdict(int)
        for runs in self._runs[day].values() if day in self._runs else ():
            for run in runs:
                counts[run.part] += run.rows
        return dict(counts)

    def rows(self, day: int, shard: int) -> list[tuple[str, pl.DataFrame]]:
        """(part, rows) of one day and shard, in the order in which they were read."""
        runs = self._runs[day].get(shard, []) if day in self._runs else []
        return [(run.part, _load(run)) for run in runs]

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _load(run: _Run) -> pl.DataFrame:
    with pa.memory_map(str(run.file)) as source:
        frame = pl.from_arrow(pa.ipc.open_file(source).get_batch(run.batch))
    assert isinstance(frame, pl.DataFrame)
    return frame
