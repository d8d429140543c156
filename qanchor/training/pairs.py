"""UserU as training reads it: pairs as integers, and batches of users who answer the same questions.

Every rank knows which user was asked which topic, so all ranks draw the same batch; the profiles and the texts of a
pair are known to the user's own rank only.

Shapes: N keys (user, as_of), R pairs (rows of UserU), B users of a batch, L of them this rank's, N questions each (one
column of the batch a question).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor.errors import TrainingError
from qanchor.events.profiles import Profiles
from qanchor.events.shards import shard_of

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairBatch:
    """B users, for each of N columns the topic asked; of L of them, this rank's, also the profile, question, answer."""

    topic_BN: Ints
    place_L: Ints
    """Which of the B users they are."""
    profile_L: Ints
    query_LN: Ints
    """Index into `Pairs.queries`; phrasings differ between users."""
    answer_LN: Ints
    """Index into `Pairs.answers`."""
    text_LN: Ints
    """A number that answers of the same text share, on every rank."""


@dataclass(frozen=True)
class Group:
    """Users, and the topics that some of them were asked: pair row of (user, topic), -1 where a user lacks one."""

    topic_K: Ints
    row_UK: npt.NDArray[np.int32]
    pairs: int

    def draw(self, rng: np.random.Generator, users: int, questions: int) -> Ints:
        """[B, N] pair rows of up to `users` users and `questions` topics that all of them were asked.

        Topics come in random order, each as likely as users were asked it; one is left out when, of the users who were
        asked the ones before it, too few were asked it, too.
        """
        asked_K = (self.row_UK >= 0).sum(0)
        topics = rng.choice(len(asked_K), len(asked_K), replace=False, p=asked_K / asked_K.sum())
        first = int(topics[0])
        chosen, complete = [first], np.flatnonzero(self.row_UK[:, first] >= 0)
        enough = max(2, min(users, len(complete) // 2))
        for topic in topics[1:]:
            if len(chosen) == questions:
                break
            both = complete[self.row_UK[complete, topic] >= 0]
            if len(both) >= enough:
                chosen, complete = [*chosen, int(topic)], both
        return self.row_UK[rng.permutation(complete)[:users, None], chosen].astype(np.int64)

    def draw_mixed(self, rng: np.random.Generator, users: int, questions: int) -> Ints:
        """[B, N] pair rows of up to `users` users and, for each, any `questions` of the topics that it was asked."""
        asked_U = (self.row_UK >= 0).sum(1)
        questions = min(questions, int(np.sort(asked_U)[-2]))
        row_BK = self.row_UK[rng.permutation(np.flatnonzero(asked_U >= questions))[:users]]
        order_BK = np.where(row_BK >= 0, rng.random(row_BK.shape), 2.0).argsort(1)
        return np.take_along_axis(row_BK, order_BK[:, :questions], 1).astype(np.int64)


class Pairs:
    """A UserU data set over the keys of one split, with the texts of those that this rank holds profiles of.

    Contrastive learning needs users that answer the same question: batches that mix questions are solved by telling
    questions apart (design, section 7). So a batch is drawn within one group, and negatives within one topic. A group
    is a cohort, whose users were asked alike, or everyone with the topics that their own profiles speak of.
    """

    def __init__(self, frame: pl.DataFrame | pl.LazyFrame, keys: pl.DataFrame, profiles: Profiles) -> None:
        """`keys` [N] user_id, as_of: all of the split, in the same order on every rank.

        Raises:
            TrainingError: `frame` has no pair of these keys, or no two users who were asked alike.
        """
        self.keys = len(keys)
        """N, whoever holds their profiles."""
        index = ["user_id", "as_of"]
        everyone, held = keys.select(index).with_row_index("key"), profiles.keys().with_row_index("profile")
        own = pl.col("profile").is_not_null()
        rows = (
            frame.lazy()
            .join(everyone.lazy(), on=index, how="inner", maintain_order="left")
            .join(held.lazy(), on=index, how="left", maintain_order="left")
            .select("key", "profile", "topic", "cohort", *(pl.when(own).then(text) for text in ("query", "answer")))
            .collect()
        )
        if rows.is_empty():
            raise TrainingError("UserU holds no pair of these profiles: build it for the same users and as_of days")
        self.topics, self.topic_R = _distinct(rows["topic"])
        self.profile_R = rows["profile"].cast(pl.Int64).fill_null(-1).to_numpy()
        place_R = np.cumsum(self.profile_R >= 0) - 1
        self.place_R = np.where(self.profile_R >= 0, place_R, -1)
        """Place of a pair among this rank's own; -1 for those of others."""
        texts = rows.filter(pl.col("profile").is_not_null())
        self.queries, self.query_O = _distinct(texts["query"])
        self.answers, self.answer_O = _distinct(texts["answer"])
        self.text_A = shard_of(pl.Series(self.answers, dtype=pl.String), 1 << 62)
        key_R, cohort_R = rows["key"].to_numpy(), rows["cohort"].fill_null(-1).to_numpy()
        groups = [self._group(np.flatnonzero(cohort_R == c), key_R) for c in np.unique(cohort_R)]
        self.groups = [group for group in groups if len(group.row_UK) > 1]
        if not self.groups:
            raise TrainingError("UserU has no two users who were asked alike: build it for more users")

    def _group(self, rows: Ints, key_R: npt.NDArray[np.uint32]) -> Group:
        key_U, user = np.unique(key_R[rows], return_inverse=True)
        topic_K, topic = np.unique(self.topic_R[rows], return_inverse=True)
        row_UK = np.full((len(key_U), len(topic_K)), -1, np.int32)
        row_UK[user, topic] = rows
        return Group(topic_K, row_UK, len(rows))

    def draw(self, rng: np.random.Generator, users: int, questions: int, mixed: bool = False) -> PairBatch:
        """A random batch: one group, by its number of pairs, and users and topics of it as `Group.draw` chooses.

        `mixed` batches are the paper's: each column holds a random question of each user (`Group.draw_mixed`).
        """
        sizes = np.array([group.pairs for group in self.groups])
        group = self.groups[rng.choice(len(sizes), p=sizes / sizes.sum())]
        row_BN = (group.draw_mixed if mixed else group.draw)(rng, users, questions)
        place_L = np.flatnonzero(self.profile_R[row_BN[:, 0]] >= 0)
        own_LN = self.place_R[row_BN[place_L]]
        answer_LN = self.answer_O[own_LN]
        profile_L = self.profile_R[row_BN[place_L, 0]]
        return PairBatch(
            self.topic_R[row_BN], place_L, profile_L, self.query_O[own_LN], answer_LN, self.text_A[answer_LN]
        )


def _distinct(column: pl.Series) -> tuple[list[str], Ints]:
    """The distinct values of a column, sorted, and the place of each row's value among them."""
    values, place = np.unique(column.to_numpy(allow_copy=True).astype(str), return_inverse=True)
    return values.tolist(), place.astype(np.int64)
