"""A snapshot as Lance data sets, one a scenario, for vector search (D9b): `as_of=2026-01-31/SCENARIO.lance`.

Shapes: N users, O dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from qanchor.errors import ConfigError, DataError
from qanchor.inference.search import NOTHING, Floats, Near, across, nearest
from qanchor.inference.snapshot import KEY, Snapshot, digest
from qanchor.storage import Place

ROWS = 65_536
"""Of a batch: bounded memory whatever a shard's size."""
INDEXED = 100_000
"""Users from which on an index is built; of fewer Lance looks at all."""
MORE = 4
"""Times as many candidates where users are compared without what a readout has written."""
PROBED = 0.2
"""Share of the index's cells that a search looks into: recall against speed (benchmarks/search.py)."""


def write(snapshot: Snapshot, scenario: str, shards: int) -> Place:
    """Replace a scenario's data set by what the snapshot's files hold; where it is.

    A new version becomes visible in one step, so that searches beside it see the old rows or the new ones.

    Raises:
        ConfigError: Lance is not installed.
    """
    lance = _library()
    place = _place(snapshot, scenario)
    batches = _batches(snapshot, scenario, shards)
    first = next(batches)
    schema = first.schema.with_metadata({KEY: _made(snapshot, scenario, shards)})
    rows = pa.RecordBatchReader.from_batches(schema, itertools.chain([first], batches))
    written = lance.write_dataset(rows, str(place), mode="overwrite")
    if (users := written.count_rows()) >= INDEXED:
        written.create_index("embedding", "IVF_FLAT", num_partitions=round(users**0.5))
    return place


def search(
    snapshot: Snapshot, scenario: str, shards: int, vector_O: Floats, k: int, along_RO: Floats | None = None
) -> list[Near]:
    """As `nearest`, of the users whom the index finds: most of the k, not always all.

    Raises:
        ConfigError: Lance is not installed.
        DataError: there is no such data set, or it is not of the files beside it as they are now.
    """
    lance = _library()
    place = _place(snapshot, scenario)
    try:
        found = lance.dataset(str(place))
    except ValueError:
        raise DataError(f"no data set at {place}: write it with `qanchor embed --sink lance`") from None
    if (found.schema.metadata or {}).get(KEY) != _made(snapshot, scenario, shards):
        raise DataError(f"{place} is older than the files beside it: run `qanchor embed --sink lance` again")
    # among rows of unit length the nearest to a vector of unit length are those with the largest product
    along_RO = NOTHING if along_RO is None else along_RO
    rest_O = across(along_RO, vector_O)
    # their lengths differ by a third once a readout is left out: more candidates, which `nearest` ranks
    wanted = MORE * k if len(along_RO) else k
    asked = {"column": "embedding", "q": rest_O / np.linalg.norm(rest_O), "k": wanted}
    cells = max(1, round(PROBED * found.count_rows() ** 0.5))
    rows = found.to_table(columns=["user_id", "embedding", "_distance"], nearest={**asked, "nprobes": cells})
    user_N, embedding_N = (rows[name].combine_chunks() for name in ("user_id", "embedding"))
    embedding_NO = embedding_N.flatten().to_numpy().reshape(len(user_N), len(vector_O))
    return nearest([(user_N, embedding_NO)], vector_O, k, along_RO)


def _library() -> Any:
    try:
        import lance
    except ImportError:
        raise ConfigError("Lance is not installed: pip install 'qanchor[lance]'") from None
    return lance


def _place(snapshot: Snapshot, scenario: str) -> Place:
    return snapshot.path(scenario, 0).parent.with_name(f"{scenario}.lance")


def _made(snapshot: Snapshot, scenario: str, shards: int) -> bytes:
    """What the snapshot's files were made of."""
    return digest(*(str(snapshot.made(scenario, shard)) for shard in range(shards))).encode()


def _batches(snapshot: Snapshot, scenario: str, shards: int) -> Iterator[Any]:
    """At least one, which may be empty."""
    for shard in range(shards):
        user_N, embedding_NO = snapshot.read(scenario, shard)
        for start in range(0, max(1, len(user_N)), ROWS):
            part = np.ascontiguousarray(embedding_NO[start : start + ROWS])
            embedding = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
            yield pa.record_batch({"user_id": user_N.slice(start, ROWS), "embedding": embedding})
