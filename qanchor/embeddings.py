"""Embeddings on disk: `user_id, as_of, scenario, embedding` in Parquet, and in the metadata who made them.

Shapes: N users, G scenarios, O dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qanchor import storage
from qanchor.events import atomic, covered
from qanchor.events.cover import Covers, clear
from qanchor.storage import Place

KEY = b"qanchor"
"""Of our entry in a file's metadata."""


def write(
    path: Place,
    keys: pl.DataFrame,
    scenarios: Sequence[str],
    embedding_NGO: npt.NDArray[np.float32],
    covers: Covers = clear,
    made_by: Mapping[str, str] | None = None,
) -> None:
    """`user_id, as_of, scenario, embedding` as one Parquet file, from one flat buffer, replaced atomically.

    `made_by`: scenario -> its maker (`inference/makers.py`).
    """
    users, count, width = embedding_NGO.shape
    flat = pa.array(np.ascontiguousarray(embedding_NGO.transpose(1, 0, 2)).reshape(-1))
    table = pa.table(
        {
            "user_id": pa.concat_arrays([keys["user_id"].to_arrow().cast(pa.string())] * count),
            "as_of": pa.concat_arrays([keys["as_of"].to_arrow()] * count),
            "scenario": pa.DictionaryArray.from_arrays(
                np.repeat(np.arange(count, dtype=np.int32), users), list(scenarios)
            ),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, width),
        }
    ).replace_schema_metadata({KEY: json.dumps({"made_by": dict(made_by or {})})})
    if (cover := covers(path.stem)).sealed:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        covered.write(path, sink.getvalue().to_pybytes(), cover)
        return
    with storage.scratch(path.parent) as scratch:
        fresh = scratch / (path.name + atomic.TEMPORARY)
        pq.write_table(table, fresh, compression="zstd")
        atomic.switch(fresh, path, sync_folder=False)


def read(path: Place, scenario: str, covers: Covers = clear) -> npt.NDArray[np.float32]:
    """[N, O] of one scenario, rows as they were written. Raises SealError as `covered.opened`."""
    with covered.opened(path, covers(path.stem)) as file:
        table = pq.read_table(file, filters=[("scenario", "=", scenario)], columns=["embedding"])
    column = table["embedding"].combine_chunks()
    flat: npt.NDArray[np.float32] = column.flatten().to_numpy().reshape(len(column), -1)
    return flat


def read_all(path: Place, covers: Covers = clear) -> dict[str, npt.NDArray[np.float32]]:
    """scenario -> [N, O] of every scenario that a file holds, in one pass. Raises SealError as `covered.opened`."""
    with covered.opened(path, covers(path.stem)) as file:
        table = pq.read_table(file, columns=["scenario", "embedding"])
    names = pc.unique(table["scenario"]).to_pylist()
    embedding_X = table["embedding"].combine_chunks().flatten().to_numpy()
    # `write` puts the rows of a scenario one after another
    return dict(zip(names, embedding_X.reshape(len(names), table.num_rows // len(names), -1), strict=True))


def made_by(path: Place, covers: Covers = clear) -> dict[str, str]:
    """Scenario -> its maker; empty where the file does not say. Raises SealError as `covered.opened`."""
    with covered.opened(path, covers(path.stem)) as file:
        about = json.loads((pq.read_schema(file).metadata or {}).get(KEY, b"{}"))
    return dict(about.get("made_by", {}))
