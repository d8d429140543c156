"""Who is train, validation and test, and whom each as_of is asked about: by stable hashes of the user's id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor.config import Config, Users
from qanchor.errors import ConfigError
from qanchor.events.store import EventStore

SPLITS = ("train", "validation", "test")


def split_of(user_ids: Iterable[str], users: Users) -> npt.NDArray[np.str_]:
    """[N] "train", "validation" or "test": a user is in one of them for ever, whoever else is there.

    Raises:
        ConfigError: `validation` and `test` leave nobody to train on.
    """
    if users.validation + users.test >= 1:
        raise ConfigError(
            f"`users.validation` {users.validation} + `users.test` {users.test} leave no training users: "
            "their sum must be below 1"
        )
    place = _places(user_ids, "split")
    return np.select([place < users.test, place < users.test + users.validation], ["test", "validation"], "train")


def requests(config: Config, store: EventStore) -> pl.DataFrame:
    """Whom training and evaluation ask about, and when.

    Only users of the population at that as_of; with `users.limit`, the same stable sample of it for all splits, so
    that each split gets its share of the limit.

    Returns:
        user_id String, as_of Datetime("us"), split String; sorted by split (train, validation, test), as_of, user.
    """
    frames = []
    for split in SPLITS:
        for day in sorted(set(getattr(config.windows, split))):
            users = _sample(store.population(day, config.users.min_events), config.users.limit)
            chosen = [user for user, its in zip(users, split_of(users, config.users), strict=True) if its == split]
            frame = pl.DataFrame({"user_id": chosen}, schema={"user_id": pl.String})
            frames.append(frame.with_columns(as_of=pl.lit(day).cast(pl.Datetime("us")), split=pl.lit(split)))
    return pl.concat(frames)


def part(user_ids: Iterable[str], share: float) -> npt.NDArray[np.bool_]:
    """[N] who belongs to a stable share of the users; a smaller share is part of a larger one."""
    belongs: npt.NDArray[np.bool_] = _places(user_ids, "share") < share
    return belongs


def _sample(users: list[str], limit: int | None) -> list[str]:
    """The `limit` users with the smallest hashes, in the given order."""
    if limit is None or len(users) <= limit:
        return users
    kept = np.argsort(_places(users, "sample"), kind="stable")[:limit]
    return [users[row] for row in np.sort(kept)]


def _places(user_ids: Iterable[str], salt: str) -> npt.NDArray[np.float64]:
    """[N] in [0, 1): where each id falls. The salt keeps different choices independent."""
    digests = (hashlib.blake2b(f"{salt}\x1f{user}".encode(), digest_size=8).digest() for user in user_ids)
    return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests])
