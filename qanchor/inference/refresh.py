"""The daily job, a shard at a time (section 3.2.4, Appendix E; D4, D9): every user's embeddings for every scenario.

`embed_shard` embeds a whole shard. `refresh_shard` comes to the same files by embedding only the users that changed
since the last refresh, and takes the others' rows from there. Both are functions of paths and a number; they can be
killed at any moment and run again, and leave alone what is right already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qanchor.errors import DataError
from qanchor.events.profile_store import ProfileShard, State
from qanchor.inference import shard as shards
from qanchor.inference.shard import Advance, Done, Job, Scenario, Shard
from qanchor.inference.snapshot import Made, Snapshot, digest
from qanchor.model.batch import AGE_DAYS


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard."""

    shard: int
    users: int = 0
    """Rows of each scenario's file that was written."""
    embedded: int = 0
    """(user, scenario) pairs that were computed,"""
    carried: int = 0
    """and those that were taken over from the last refresh."""
    set_aside: int = 0
    """Users who could not be embedded: `_set-aside/` beside the scenarios says why."""
    up_to_date: bool = False
    """There was nothing to do."""


def embed_shard(job: Job, number: int, advance: Advance = lambda _: None) -> ShardReport:
    """Bring the files of one shard up to date, from the event store alone.

    Raises:
        ModelError: the model is missing, or has no soft prompt for a scenario that should be tuned.
        DataError: the store is missing or damaged, or not one user of many could be embedded.
    """
    shard = Shard(job, number, advance)
    missing = shard.missing()
    if not missing:
        advance(1.0)
        return ShardReport(number, up_to_date=True)
    done = shard.embed(missing, shard.population())
    shard.target.write_set_aside(number, done.aside)
    return ShardReport(number, done.users, done.embedded, 0, len(done.aside))


def refresh_shard(job: Job, number: int, advance: Advance = lambda _: None) -> ShardReport:
    """Bring the files of one shard, and its profiles, from the as_of of the last refresh to the job's.

    Raises:
        DataError: the shard was refreshed to a later day already; otherwise as `embed_shard`.
    """
    shard = Shard(job, number, advance)
    with ProfileShard.at(job.profiles, number, shard.covers) as kept:
        return _refresh(shard, kept)


def _refresh(shard: Shard, kept: ProfileShard) -> ShardReport:
    number, before, missing = shard.number, kept.state, shard.missing()
    if before is not None and before.as_of > shard.now.as_of:
        raise DataError(
            f"shard {number} was refreshed to {before.as_of} already, got {shard.now.as_of}: embed past days with "
            "`qanchor embed --as-of`"
        )
    if not missing and before == shard.now:
        shard.advance(1.0)
        return ShardReport(number, up_to_date=True)

    carried: list[tuple[Scenario, Made]] = []
    if before is None:
        source, changed = None, shard.population()
    else:
        source, changed = Snapshot(shard.job.snapshots, before.as_of, shard.covers), changed_users(shard, kept, before)
        carried = [asked for asked in missing if _stands(source, number, before, asked[1])]
    anew = [asked for asked in missing if asked not in carried]
    with kept.writing():
        first = shard.embed(carried, changed, 0.5 if anew else 1.0, source, kept)
        second = shard.embed(anew, shard.population(), 0.5) if anew else Done()
        aside = source.set_aside(number) if source else {}
        for user in changed:
            aside.pop(user, None)
        aside |= first.aside | second.aside
        # files before state: should we be killed between, the next run finds them right and only moves the state
        shard.target.write_set_aside(number, aside)
        kept.stand_at(shard.now)
    users, embedded = max(first.users, second.users), first.embedded + second.embedded
    return ShardReport(number, users, embedded, first.carried, len(aside))


def changed_users(shard: Shard, kept: ProfileShard, before: State) -> list[str]:
    """Whose prefix is another than at the last refresh (D4), sorted: new events, expired ones, or older by a bucket."""
    store, after = shard.store, shard.now.as_of
    changed = set(store.moved(shard.number, before.as_of, after, AGE_DAYS.tolist()))
    if store.files(shard.number, before.as_of) == before.files:
        return sorted(changed)
    # a day of the past is another than it was, and with it any user's window may be: look at each
    user_ids: Sequence[str] = sorted({*shard.population(), *kept.users()})
    for start in range(0, len(user_ids), shards.BLOCK):
        changed.update(kept.differing(shard.profiles(user_ids[start : start + shards.BLOCK])))
    return sorted(changed)


def _stands(source: Snapshot, number: int, before: State, made: Made) -> bool:
    """Whether the last refresh left this scenario's rows, of the profiles that are kept and by the same model."""
    old = source.made(made.scenario, number)
    return old is not None and old.events == digest(before.files) and old.differs_in_events_only(made)
