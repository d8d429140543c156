"""UserU: for every (user, as_of) questions and answers about the future and about the past (section 3.1).

Contrastive learning needs users that answer the same question. So keys are put into cohorts by a stable hash, and all
users of a cohort are asked some topics alike; beside them each user is asked about the ten topics that its own profile
speaks of most, as in the paper, and shares each of those with all others of whom that is true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor.config import Config
from qanchor.errors import DataError
from qanchor.events.profiles import Profiles
from qanchor.useru.checker import Checker
from qanchor.useru.cohorts import Asked, Interviewer
from qanchor.useru.dataset import Part
from qanchor.useru.evidence import Ints
from qanchor.useru.phrases import speak, stable_hash

COHORT = 256
"""Keys that share their topics, about."""
PART = 16
"""Cohorts of a part: what is held in memory at a time, and a shard of the data set."""
WORTH_WORKERS = 8
"""Parts from which on worker processes pay for their start."""
OWN = 1_000
"""Slot of a key's strongest topic, behind all that its cohort is asked."""


class Survey:
    """One building of the data set, part by part; any part can be built by itself, in any order, by any process.

    `past` and `future` hold the lookback and the prediction windows of the same keys. Rows go by cohort, then by key in
    the order of `past`; equal inputs and seeds give equal rows. A key has `config.useru.future` pairs of D_future
    (topics "future" and "future/CONCEPT"), `config.useru.shared` pairs of D_uqa that its cohort is asked alike (topics
    "concept/NAME" and "habit/NAME"), and `config.useru.uqa` pairs about what its own profile speaks of most (topics
    "life/KEY" of the pool, or "concept/NAME"; `cohort` is null). Of keys without any future event only the share
    `config.useru.empty_future` (by the key's hash) has the "future" row; their focused futures stay, since "never" is
    what the other users' answers must be told from. `support` are up to three texts that the answer rests on, each with
    its number of events.

    Raises:
        DataError: `past` and `future` are not of the same keys and text table, or there are no keys.
    """

    def __init__(self, config: Config, past: Profiles, future: Profiles, seed: int) -> None:
        _check(past, future)
        self.interviewer, self.checker = Interviewer(config, past, future, seed), Checker(config, past, future)
        self.keys = past.keys()
        self.names = [f"{user}|{as_of}" for user, as_of in zip(past.user_ids, past.as_of, strict=True)]
        share = config.useru.empty_future * 2**64
        self.kept = np.array([stable_hash(f"{name}|kept") < share for name in self.names])
        order = np.argsort(np.array([stable_hash(name) for name in self.names], np.uint64), kind="stable")
        self.cohorts = [np.sort(rows) for rows in np.array_split(order, max(1, round(len(past) / COHORT)))]
        self.parts = -(-len(self.cohorts) // PART)

    def run(self, workers: int) -> Iterator[Part]:
        """All parts in order, whatever the number of worker processes; few parts are not worth starting any."""
        if workers < 2 or self.parts < WORTH_WORKERS:
            yield from map(self.part, range(self.parts))
            return
        # spawned, not forked: a fork of a process with Polars' threads may hang
        with ProcessPoolExecutor(workers, get_context("spawn"), _adopt, (self,)) as pool:
            yield from pool.map(_part, range(self.parts))

    def part(self, number: int) -> Part:
        """The pairs of part `number` of `parts`."""
        cohorts = range(number * PART, min((number + 1) * PART, len(self.cohorts)))
        everyone = np.sort(np.concatenate([self.cohorts[cohort] for cohort in cohorts]))
        refused: Counter[str] = Counter()
        frames = []
        for cohort in cohorts:
            rows = self.cohorts[cohort]
            for slot, asked in enumerate(self.interviewer.ask(rows, cohort)):
                frame = self._pairs(asked, rows, np.full(len(rows), slot), cohort)
                frame = frame.filter(asked.some | self.kept[rows]) if asked.name == "future" else frame
                frames.append(self._confirmed(frame, asked, refused))
        for place, rank, asked in self.interviewer.ask_each(everyone):
            frames.append(self._confirmed(self._pairs(asked, everyone[place], OWN + rank, None), asked, refused))
        pairs = pl.concat(frames).sort("key", "slot").unique(["key", "topic"], keep="first", maintain_order=True)
        told = pl.concat([self.keys[pairs["key"]], pairs.drop("key", "slot")], how="horizontal")
        return Part(told, len(everyone), refused)

    def _pairs(self, asked: Asked, rows: Ints, slot: Ints, cohort: int | None) -> pl.DataFrame:
        """One topic, put into words for the keys of `rows`."""
        number: npt.NDArray[np.uint64] = np.array(
            [stable_hash(f"{self.names[row]}|{asked.name}") for row in rows], np.uint64
        )
        query, answer = speak(asked.topic, number, stable_hash(asked.name), asked.some, asked.fields)
        return pl.DataFrame(
            {
                "key": rows,
                "slot": slot,
                "source": pl.repeat(asked.source, len(rows), eager=True),
                "topic": pl.repeat(asked.name, len(rows), eager=True),
                "query": pl.Series(query.tolist(), dtype=pl.String),
                "answer": pl.Series(answer.tolist(), dtype=pl.String),
                "support": self.interviewer.voice.support(asked.events),
                "cohort": pl.repeat(cohort, len(rows), dtype=pl.Int32, eager=True),
            }
        )

    def _confirmed(self, frame: pl.DataFrame, asked: Asked, refused: Counter[str]) -> pl.DataFrame:
        """The pairs whose answers the checker confirms; the others are counted by kind of topic and failed claim."""
        reason = self.checker.confirm(
            frame["key"].to_numpy(), asked.name, asked.words, frame["query"].to_list(), frame["answer"].to_list()
        )
        failed = reason != ""
        kind = asked.name.split("/")[0]
        refused.update(f"{kind}: {said.split(':')[0]}" for said in reason[failed])
        return frame.filter(~failed) if failed.any() else frame


_survey: Survey
"""What a worker process builds."""


def _adopt(survey: Survey) -> None:
    """A worker process's own survey."""
    global _survey
    _survey = survey


def _part(number: int) -> Part:
    return _survey.part(number)


def _check(past: Profiles, future: Profiles) -> None:
    if not len(past):
        raise DataError("no keys to build UserU for: ask for at least one (user_id, as_of)")
    same = len(past) == len(future) and (past.user_ids == future.user_ids).all() and (past.as_of == future.as_of).all()
    if not same:
        raise DataError(
            f"lookback windows of {len(past)} keys and prediction windows of {len(future)} keys do not match: "
            "read both with the same keys in the same order"
        )
    if past.texts is not future.texts and not np.array_equal(past.texts.ids, future.texts.ids):
        raise DataError(
            f"lookback and prediction windows have text tables of {len(past.texts)} and {len(future.texts)} texts: "
            "read both from one store"
        )
