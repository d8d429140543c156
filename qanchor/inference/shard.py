"""One shard's users embedded into one shard's files, block by block, with bounded memory.

Shapes: N users of the shard, C of them embedded now, X of a block that went well, G scenarios, O dimensions.
"""

from __future__ import annotations

import datetime as dt
import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch

from qanchor import storage
from qanchor.errors import DataError, ModelError, QAnchorError
from qanchor.events.cover import covers
from qanchor.events.profile_store import ProfileShard, State
from qanchor.events.profiles import Profiles
from qanchor.events.store import EventStore
from qanchor.inference.engine import QAnchor
from qanchor.inference.snapshot import Floats, Made, Snapshot, digest
from qanchor.model import persistence
from qanchor.storage import Place

BLOCK = 32_768
"""Users whose events are in memory at once."""

Ints = npt.NDArray[np.int64]
Advance = Callable[[float], None]
"""Called with the share of a shard that is done since it was called last."""


@dataclass(frozen=True)
class Scenario:
    """A tuned one goes by the model's soft prompt of that name; any other is a free query with the shared prompt."""

    name: str
    query: str
    tuned: bool


@dataclass(frozen=True)
class Job:
    """What a worker needs to know: where things are, never rows."""

    store: Place
    model: Path
    snapshots: Place
    profiles: Place
    """Where refresh keeps the profiles that it embedded."""
    vectors: Path | None
    """Where a frozen text encoder keeps what it has read."""
    modalities: tuple[str, ...]
    lookback_days: dict[str, int]
    min_events: int
    as_of: dt.date
    scenarios: tuple[Scenario, ...]
    vault: Path | None = None
    """File of the data keys that seal what the job writes; left out, it lies in the clear."""


@dataclass(frozen=True)
class Done:
    """What a pass over some users came to."""

    users: int = 0
    """Rows of each file that was written."""
    embedded: int = 0
    """(user, scenario) pairs that were computed,"""
    carried: int = 0
    """and those that were taken over."""
    aside: dict[str, str] = field(default_factory=dict)
    """Users who could not be embedded, and why."""


class Shard:
    """One shard of a job: what its files are to be made of, and how."""

    def __init__(self, job: Job, number: int, advance: Advance) -> None:
        self.job, self.number, self.advance = job, number, advance
        self.store = EventStore(job.store, job.modalities, job.lookback_days)
        self.covers = covers(job.vault)
        self.target = Snapshot(job.snapshots, job.as_of, self.covers)
        self.model, self.fingerprint = _model(job.model, job.vectors, _version(job.model))
        self.now = State(job.as_of, self.store.files(number, job.as_of))

    def missing(self) -> list[tuple[Scenario, Made]]:
        """Scenarios whose file is not there, or made of something else, and what it is to be made of."""
        wanted = [(scenario, self._made(scenario)) for scenario in self.job.scenarios]
        started = self.target.started(self.number)
        return [
            (scenario, made)
            for scenario, made in wanted
            if scenario.name in started or self.target.made(scenario.name, self.number) != made
        ]

    def population(self) -> list[str]:
        """Who is to be embedded at the job's as_of, sorted."""
        return self.store.population(self.job.as_of, self.job.min_events, self.number)

    def profiles(self, user_ids: Sequence[str]) -> Profiles:
        keys = pl.DataFrame({"user_id": user_ids}, schema={"user_id": pl.String})
        return self.store.profiles(keys.with_columns(as_of=pl.lit(self.job.as_of).cast(pl.Datetime("us"))))

    def embed(
        self,
        asked: Sequence[tuple[Scenario, Made]],
        user_ids: Sequence[str],
        share: float = 1.0,
        source: Snapshot | None = None,
        keep: ProfileShard | None = None,
    ) -> Done:
        """Embed users (sorted) and write the scenarios' files.

        Args:
            share: of the shard's whole work that this is.
            source: where the rows of all other users are taken from; left out, there are no others.
            keep: where the profiles go.

        Raises:
            DataError: of a block of many users, not one could be embedded.
        """
        scenarios = [scenario for scenario, _ in asked]
        shape = (len(asked), len(user_ids), self.model.towers.dim)
        present_C = np.zeros(len(user_ids), bool)
        aside: dict[str, str] = {}
        with storage.scratch(self.job.profiles) as folder, tempfile.TemporaryFile(dir=folder) as file:
            # on disk: all scenarios of a large shard together are more than memory should hold; what is to be sealed
            # stays in memory all the same
            in_memory = 0 in shape or self.target.cover(self.number).sealed
            embedding_GCO = np.zeros(shape, np.float32) if in_memory else np.memmap(file, np.float32, "w+", 0, shape)
            for start in range(0, len(user_ids), BLOCK):
                profiles = self.profiles(user_ids[start : start + BLOCK])
                if keep is not None:
                    keep.put(profiles)
                enough = np.flatnonzero(profiles.counts >= self.job.min_events)
                if asked:
                    row_X, embedding_XGO, reasons = self._attempt(profiles, enough, scenarios)
                    embedding_GCO[:, start + row_X] = embedding_XGO.transpose(1, 0, 2)
                    present_C[start + row_X] = True
                    aside |= reasons
                self.advance(share * len(profiles) / len(user_ids))
            if not user_ids:
                self.advance(share)
            user_C = pa.array(user_ids, pa.string())
            users = carried = 0
            if asked:
                self.target.start(self.number, [scenario.name for scenario in scenarios])
            for g, (scenario, made) in enumerate(asked):
                rows = user_C.filter(pa.array(present_C)), embedding_GCO[g][present_C]
                if source is not None:
                    rows = _merge(*_without(*source.read(scenario.name, self.number), user_C), *rows)
                self.target.write(self.number, made, *rows)
                users = len(rows[0])
                carried += users - int(present_C.sum())
            self.target.finish(self.number)
        return Done(users, int(present_C.sum()) * len(asked), carried, aside)

    def _made(self, scenario: Scenario) -> Made:
        prompts, job = self.model.prompts, self.job
        if scenario.tuned and scenario.name not in prompts:
            raise ModelError(f"{job.model} has no soft prompt for {scenario.name!r}: tune it first (`qanchor tune`)")
        shared_KD = self.model.towers.prompt.detach()
        numbers = prompts[scenario.name].numbers if scenario.tuned else shared_KD.float().cpu().tolist()
        return Made(
            as_of=str(job.as_of),
            scenario=scenario.name,
            query=scenario.query,
            model=self.fingerprint,
            prompt=digest(numbers),
            events=digest(self.now.files),
            population=digest(job.lookback_days, job.min_events),
        )

    def _attempt(
        self, profiles: Profiles, rows: Ints, scenarios: Sequence[Scenario]
    ) -> tuple[Ints, Floats, dict[str, str]]:
        """Of the users of `rows`: the rows that went well, their embeddings [X, G, O], the other users' reasons.

        One user who cannot be read fails the batch; halves of it are tried until that user is alone.
        """
        try:
            embedding_XGO = self._embed(profiles.take(rows), scenarios)
        except (QAnchorError, MemoryError, torch.OutOfMemoryError):
            raise  # the model's or the machine's fault, not a user's
        except Exception as error:
            if len(rows) == 1:
                nothing = np.zeros((0, len(scenarios), self.model.towers.dim), np.float32)
                why = f"{type(error).__name__}: {error}"
                return rows[:0], nothing, {profiles.user_ids[rows[0]]: why}
            halves = [self._attempt(profiles, half, scenarios) for half in np.array_split(rows, 2)]
            (row_X, embedding_XGO, reasons), (more_X, more_XGO, others) = halves
            if not len(row_X) and not len(more_X) and len(rows) > 2:
                raise DataError(
                    f"not one of {len(rows)} users of shard {self.number} could be embedded: {reasons or others}"
                ) from error
            return np.concatenate([row_X, more_X]), np.concatenate([embedding_XGO, more_XGO]), reasons | others
        fine_X = np.isfinite(embedding_XGO).all((1, 2))
        why = "its embedding is not a finite number: look at the values of its events"
        return rows[fine_X], embedding_XGO[fine_X], dict.fromkeys(profiles.user_ids[rows[~fine_X]], why)

    def _embed(self, profiles: Profiles, scenarios: Sequence[Scenario]) -> Floats:
        """[N, G, O], columns in the order of `scenarios`; the model takes the tuned ones first."""
        order = sorted(range(len(scenarios)), key=lambda g: not scenarios[g].tuned)
        tuned = [scenarios[g].name for g in order if scenarios[g].tuned]
        queries = [scenarios[g].query for g in order if not scenarios[g].tuned]
        return self.model.embed(profiles, tuned, queries)[:, np.argsort(order)]


def _without(user_N: pa.Array, embedding_NO: Floats, gone: pa.Array) -> tuple[pa.Array, Floats]:
    """Rows of all users but some."""
    stays_N = pc.invert(pc.is_in(user_N, value_set=gone))
    return user_N.filter(stays_N), embedding_NO[stays_N.to_numpy(zero_copy_only=False)]


def _merge(user_N: pa.Array, embedding_NO: Floats, user_C: pa.Array, embedding_CO: Floats) -> tuple[pa.Array, Floats]:
    """Rows of both, sorted by user as Python sorts."""
    user_A = pa.concat_arrays([user_N, user_C])
    order_A = pc.sort_indices(user_A)
    return user_A.take(order_A), np.concatenate([embedding_NO, embedding_CO])[order_A.to_numpy()]


def _version(folder: Path) -> tuple[tuple[str, int], ...]:
    """Changes when a model does."""
    files = [*folder.glob("*"), *folder.glob("prompts/*")]
    return tuple((str(path), path.stat().st_mtime_ns) for path in sorted(files) if path.is_file())


@functools.lru_cache(maxsize=1)
def _model(folder: Path, vectors: Path | None, version: tuple[tuple[str, int], ...]) -> tuple[QAnchor, str]:
    """The model and its fingerprint, once a process."""
    model = QAnchor.from_pretrained(folder, vectors)
    model.towers.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, persistence.fingerprint(model.towers)
