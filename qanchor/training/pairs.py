"""UserU as training reads it: pairs as integers, and batches of users who answer the same questions.

Shapes: N profiles, R pairs (rows of UserU), B users of a batch, N questions each (one column of the batch a question).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor.errors import TrainingError
from qanchor.events.profiles import Profiles


@dataclass(frozen=True)
class PairBatch:
    """B users, and for each of N shared topics the question as asked of them and their answer."""

    profile_B: npt.NDArray[np.int64]
    query_BN: npt.NDArray[np.int64]
    """Index into `Pairs.queries`; phrasings differ between users."""
    answer_BN: npt.NDArray[np.int64]
    """Index into `Pairs.answers`."""
    topic_N: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cohort:
    """Users who were asked the same topics: pair row of (user, topic), -1 where a user lacks one."""

    profile_U: npt.NDArray[np.int64]
    topic_K: npt.NDArray[np.int64]
    row_UK: npt.NDArray[np.int64]


class Pairs:
    """A UserU data set over the profiles of one split.

    Contrastive learning needs users that answer the same question: batches that mix questions are solved by telling
    questions apart (design, section 7). So a batch is drawn within one cohort, and negatives within one topic.
    """

    def __init__(self, frame: pl.DataFrame, profiles: Profiles) -> None:
        keys = profiles.keys().with_row_index("profile")
        rows = frame.join(keys, on=["user_id", "as_of"], how="inner", maintain_order="left")
        if rows.is_empty():
            raise TrainingError("UserU holds no pair of these profiles: build it for the same users and as_of days")
        self.queries, self.query_R = _distinct(rows["query"])
        self.answers, self.answer_R = _distinct(rows["answer"])
        self.topics, self.topic_R = _distinct(rows["topic"])
        self.profile_R = rows["profile"].to_numpy().astype(np.int64)
        cohort_R = rows["cohort"].to_numpy()
        self.cohorts = [self._cohort(np.flatnonzero(cohort_R == c)) for c in np.unique(cohort_R)]

    def _cohort(self, rows: npt.NDArray[np.int64]) -> Cohort:
        profile_U, user = np.unique(self.profile_R[rows], return_inverse=True)
        topic_K, topic = np.unique(self.topic_R[rows], return_inverse=True)
        row_UK = np.full((len(profile_U), len(topic_K)), -1)
        row_UK[user, topic] = rows
        return Cohort(profile_U, topic_K, row_UK)

    def draw(self, rng: np.random.Generator, users: int, questions: int) -> PairBatch:
        """A random batch: one cohort, `questions` of its topics, `users` users (fewer if too few have them all)."""
        sizes = np.array([len(cohort.profile_U) for cohort in self.cohorts])
        cohort = self.cohorts[rng.choice(len(sizes), p=sizes / sizes.sum())]
        topics = rng.permutation(len(cohort.topic_K))[:questions]
        complete = np.flatnonzero((cohort.row_UK[:, topics] >= 0).all(1))
        if len(complete) < 2:  # a topic that few users have: ask the most common ones instead
            topics = np.argsort(-(cohort.row_UK >= 0).sum(0), kind="stable")[:questions]
            complete = np.flatnonzero((cohort.row_UK[:, topics] >= 0).all(1))
        chosen = rng.permutation(complete)[:users]
        row_BN = cohort.row_UK[chosen[:, None], topics]
        return PairBatch(cohort.profile_U[chosen], self.query_R[row_BN], self.answer_R[row_BN], cohort.topic_K[topics])


def _distinct(column: pl.Series) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct values of a column, sorted, and the place of each row's value among them."""
    values, place = np.unique(column.to_numpy(allow_copy=True).astype(str), return_inverse=True)
    return values.tolist(), place.astype(np.int64)
