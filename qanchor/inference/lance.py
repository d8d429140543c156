"""A snapshot as Lance data sets, one a scenario, for vector search (D9b): `as_of=2026-01-31/SCENARIO.lance`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from qanchor.errors import ConfigError
from qanchor.inference.snapshot import Snapshot
from qanchor.storage import Place

ROWS = 65_536
"""Of a batch: bounded memory whatever a shard's size."""


def write(snapshot: Snapshot, scenario: str, shards: int) -> Place:
    """Replace a scenario's data set by what the snapshot's files hold; where it is.

    A new version becomes visible in one step, so that searches beside it see the old rows or the new ones.

    Raises:
        ConfigError: Lance is not installed.
    """
    try:
        import lance
    except ImportError:
        raise ConfigError("--sink lance needs Lance: pip install 'qanchor[lance]'") from None
    place = snapshot.path(scenario, 0).parent.with_name(f"{scenario}.lance")
    batches = _batches(snapshot, scenario, shards)
    first = next(batches)
    rows = pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], batches))
    lance.write_dataset(rows, str(place), mode="overwrite")
    return place


def _batches(snapshot: Snapshot, scenario: str, shards: int) -> Iterator[Any]:
    """At least one, which may be empty."""
    for shard in range(shards):
        user_N, embedding_NO = snapshot.read(scenario, shard)
        for start in range(0, max(1, len(user_N)), ROWS):
            part = np.ascontiguousarray(embedding_NO[start : start + ROWS])
            embedding = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
            yield pa.record_batch({"user_id": user_N.slice(start, ROWS), "embedding": embedding})
