"""The embeddings of one as_of on disk: `FOLDER/as_of=2026-01-31/SCENARIO/shard-0003.parquet`.

Rows are sorted by user. Each file says in its metadata what it was made of, so that whoever finds it knows whether it
is still right: the model, the scenario's query and soft prompt, and the day files that the profiles came from. Whatever
names a user is written under the shard's cover.

Shapes: N users of a shard, O dimensions.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from qanchor.events import atomic, covered
from qanchor.events.cover import CLEAR, Cover, Covers, clear, shard_name
from qanchor.storage import Place

KEY = b"qanchor"
"""Of our entry in a file's metadata."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """What a file was made of."""

    as_of: str
    scenario: str
    query: str
    model: str
    """The model's fingerprint."""
    prompt: str
    """A hash of the soft prompt's vectors."""
    events: str
    """A hash of the names of the day files; they carry hashes of their contents."""
    population: str
    """Who is embedded: users with at least so many events in the window."""

    def differs_in_events_only(self, other: Made) -> bool:
        """Whether unchanged users have the same embeddings in both."""
        return asdict(self) | {"as_of": "", "events": ""} == asdict(other) | {"as_of": "", "events": ""}


@dataclass(frozen=True)
class Snapshot:
    folder: Place
    as_of: dt.date
    covers: Covers = field(default=clear, compare=False)

    def path(self, scenario: str, shard: int) -> Place:
        return self.folder / f"as_of={self.as_of}" / scenario / f"{shard_name(shard)}.parquet"

    def cover(self, shard: int) -> Cover:
        return self.covers(shard_name(shard))

    def made(self, scenario: str, shard: int) -> Made | None:
        """What the file there was made of; None where there is none, or one that nobody can read.

        Raises SealError, as all that read here: it should be sealed and is not, or not as it was sealed.
        """
        try:
            with covered.opened(self.path(scenario, shard), self.cover(shard)) as file:
                return Made(**json.loads((pq.read_schema(file).metadata or {})[KEY]))
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):
            return None

    def read(self, scenario: str, shard: int) -> tuple[pa.Array, Floats]:
        """[N] users, in order, and [N, O] embeddings."""
        file = covered.whole(self.path(scenario, shard), self.cover(shard))
        table = pq.read_table(file, columns=["user_id", "embedding"])
        user_N, embedding_N = (table[name].combine_chunks() for name in ("user_id", "embedding"))
        return user_N, embedding_N.flatten().to_numpy().reshape(len(user_N), embedding_N.type.list_size)

    def blocks(self, scenario: str, shard: int, rows: int) -> Iterator[tuple[pa.Array, Floats]]:
        """The same, at most so many `rows` at once in memory."""
        path = self.path(scenario, shard)
        with covered.opened(path, self.cover(shard)) as file, pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(rows, columns=["user_id", "embedding"]):
                user_N, embedding_N = batch["user_id"], batch["embedding"]
                yield user_N, embedding_N.flatten().to_numpy().reshape(len(user_N), embedding_N.type.list_size)

    def write(self, shard: int, made: Made, user_N: pa.Array, embedding_NO: Floats) -> None:
        """Replace one scenario's file, in one step."""
        users = len(user_N)
        moment = dt.datetime.combine(self.as_of, dt.time())
        embedding_N = pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(embedding_NO).reshape(-1)), embedding_NO.shape[1]
        )
        one = pa.array(np.zeros(users, np.int32))
        table = pa.table(
            {
                "user_id": user_N,
                "as_of": pa.DictionaryArray.from_arrays(
                    one, pa.array([moment], pa.timestamp("us"))
                ).dictionary_decode(),
                "scenario": pa.DictionaryArray.from_arrays(one, pa.array([made.scenario])),
                "embedding": embedding_N,
            }
        ).replace_schema_metadata({KEY: json.dumps(asdict(made))})
        sink = pa.BufferOutputStream()
        # floats of unit vectors hardly compress: a twelfth less for ten times the time
        codecs = {"user_id": "zstd", "as_of": "zstd", "scenario": "zstd", "embedding.list.element": "none"}
        pq.write_table(table, sink, compression=codecs, use_dictionary=["as_of", "scenario"], write_statistics=False)
        covered.write(self.path(made.scenario, shard), sink.getvalue().to_pybytes(), self.cover(shard))

    def started(self, shard: int) -> list[str]:
        """Scenarios of a pass that was killed: to be computed together again, since in other company they round
        otherwise."""
        data = covered.read(self._beside("_started", shard), CLEAR)
        return [] if data is None else json.loads(data)

    def start(self, shard: int, scenarios: list[str]) -> None:
        atomic.write_json(self._beside("_started", shard), scenarios)

    def finish(self, shard: int) -> None:
        atomic.remove(self._beside("_started", shard))

    def set_aside(self, shard: int) -> dict[str, str]:
        """Users of a shard who could not be embedded, and why."""
        return read_reasons(self._beside("_set-aside", shard), self.cover(shard))

    def write_set_aside(self, shard: int, reasons: dict[str, str]) -> None:
        if reasons:
            write_reasons(self._beside("_set-aside", shard), reasons, self.cover(shard))
        else:
            atomic.remove(self._beside("_set-aside", shard))

    def _beside(self, what: str, shard: int) -> Place:
        return self.folder / f"as_of={self.as_of}" / what / f"{shard_name(shard)}.json"


def read_reasons(path: Place, cover: Cover) -> dict[str, str]:
    """Users who could not be embedded, and why."""
    data = covered.read(path, cover)
    return {} if data is None else json.loads(data)


def write_reasons(path: Place, reasons: dict[str, str], cover: Cover) -> None:
    text = json.dumps(dict(sorted(reasons.items())), indent=1, ensure_ascii=False) + "\n"
    covered.write(path, text.encode(), cover)


def digest(*parts: object) -> str:
    """Sixteen hex digits of whatever JSON can say."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
