"""How replies are written: JSON by orjson, floats as numbers or base64, tables as Arrow."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from fastapi import Response

from qanchor.serving.service import Found
from qanchor.serving.world import World

ARROW = "application/vnd.apache.arrow.stream"


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def floats(x_O: npt.NDArray[np.float32], encoding: Literal["float", "base64"]) -> Any:
    """What orjson writes as the shortest numbers that are the same float32; or base64 of little-endian ones."""
    if encoding == "base64":
        return base64.b64encode(x_O.astype("<f4").tobytes()).decode()
    return np.ascontiguousarray(x_O)


def failed(user_ids: Sequence[str], results: Sequence[Found | str]) -> list[dict[str, str]]:
    return [
        {"user_id": user_id, "reason": result}
        for user_id, result in zip(user_ids, results, strict=True)
        if isinstance(result, str)
    ]


def arrow(
    user_ids: Sequence[str], labels: Sequence[dict[str, str]], results: Sequence[Found | str], world: World
) -> bytes:
    """An IPC stream: a row for each user and question, and one for each user who failed."""
    users: list[str] = []
    questions: list[str | None] = []
    moments: list[int | None] = []
    errors: list[str | None] = []
    rows_NO, dim = [], world.reader.model.towers.dim
    for user_id, result in zip(user_ids, results, strict=True):
        good = isinstance(result, Found)
        count = len(labels) if good else 1
        users += [user_id] * count
        questions += [next(iter(label.values())) for label in labels] if good else [None]
        moments += [result.as_of if isinstance(result, Found) else None] * count
        errors += [None if isinstance(result, Found) else result] * count
        rows_NO.append(result.told_GX if isinstance(result, Found) else np.zeros((1, dim), np.float32))
    flat = pa.array(np.concatenate(rows_NO).reshape(-1))
    failed = pa.array([error is not None for error in errors])
    table = pa.table(
        {
            "user_id": users,
            "question": pa.array(questions, pa.string()),
            "as_of": pa.array(moments, pa.timestamp("s", "UTC")),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, dim, mask=failed),
            "error": pa.array(errors, pa.string()),
        }
    ).replace_schema_metadata({"model": world.fingerprint})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
