"""Embeddings on disk: `user_id, as_of, scenario, embedding` in Parquet.

Shapes: N users, G scenarios, O dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from qanchor import storage
from qanchor.events import atomic, covered
from qanchor.events.cover import Covers, clear
from qanchor.storage import Place


def write(
    path: Place,
    keys: pl.DataFrame,
    scenarios: Sequence[str],
    embedding_NGO: npt.NDArray[np.float32],
    covers: Covers = clear,
) -> None:
    """`user_id, as_of, scenario, embedding` as one Parquet file, from one flat buffer, replaced atomically."""
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
    )
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
