"""What a day costs: `python benchmarks/refresh.py [--users 1000000]` prints a table and writes JSON.

A simulated store of so many users with a log-normal number of events (median 80) in 90 days and one more,
on each of which 20% of them are active, in `--shards` shards, the embedded default (the weights that ship), and ten
scenarios.

1. Refresh against a full embed of the day: on `--measured` shards both are run whole; each is a loop over shards, so
   the others cost the same. The changed share counts expired events and crossed idle buckets, too. Aim: at most 1.1
   times the changed share.
2. Point reads of profiles, all users in the store: the profiles of the other shards are put there without embedding.
   Aim: p99 under 5 ms, by random ids, the file cache cold at first (dropped where the system lets us) and then warm.
3. Bytes a user at rest: events, texts, profiles, embeddings, against the paper's token buffer (717 x 896 bf16). Aim: a
   hundredth.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from contestants import machine, timed
from rich.console import Console
from rich.table import Table

from qanchor.events.partitions import Part, Partitions, day_of
from qanchor.events.profile_store import ProfileShard, ProfileStore, State
from qanchor.events.shards import shard_of
from qanchor.events.store import EventStore
from qanchor.events.texts import TextTable
from qanchor.inference.refresh import embed_shard, refresh_shard
from qanchor.inference.shard import Job, Scenario
from qanchor.model import persistence

DAYS, ACTIVE, MEDIAN = 90, 0.2, 80
START = dt.date(2025, 1, 1)
AS_OF = START + dt.timedelta(days=DAYS)
MODALITIES = ("bill", "mini", "spm", "app", "search", "tabular")
TEXTS = 4_000
PAPER_BUFFER = 717 * 896 * 2
TARGETS = {"refresh / full, of the changed share": 1.1, "p99 of a point read, ms": 5, "buffer / bytes a user": 100}
QUESTIONS = {
    "active": "Will the user be active in the interest community?",
    "concert": "Will the user click on a concert?",
    "login": "Will the user log in to the wallet?",
    "forest": "Will the user collect energy in the forest game?",
    "fraud": "Is the user going to be a victim of fraud?",
    "money": "Is the user laundering money?",
    "takeout": "Will the user order takeout food?",
    "brand": "Is the user sensitive to brands?",
    "promo": "Will the user take part in the big sale?",
    "value": "Does the user look for value for money?",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--users", type=int, default=1_000_000)
    arguments.add_argument("--shards", type=int, default=64)
    arguments.add_argument("--measured", type=int, default=2, help="shards that are embedded whole and refreshed")
    arguments.add_argument("--reads", type=int, default=20_000)
    arguments.add_argument("--folder", type=Path, default=Path("runs/refresh"))
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "refresh.json")
    options = arguments.parse_args()
    result = measure(options)
    report(result, options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    folder: Path = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    made, _ = timed(lambda: simulate(folder / "store", options.users, options.shards))
    print(f"simulated in {made:.0f} s")
    days = [
        Job(
            store=folder / "store",
            model=persistence.find("qanchor-small"),
            snapshots=folder / "embeddings",
            profiles=folder / "profiles",
            vectors=None,
            modalities=MODALITIES,
            lookback_days=dict.fromkeys(MODALITIES, DAYS),
            min_events=1,
            as_of=AS_OF + dt.timedelta(days=n),
            scenarios=tuple(Scenario(name, query, False) for name, query in QUESTIONS.items()),
        )
        for n in range(2)
    ]
    runs = []
    for shard in range(options.measured):
        refresh_shard(days[0], shard)
        seconds, refreshed = timed(lambda shard=shard: refresh_shard(days[1], shard))
        again, _ = timed(lambda shard=shard: refresh_shard(days[1], shard))
        whole, full = timed(
            lambda shard=shard: embed_shard(
                replace(days[1], snapshots=folder / "full", profiles=folder / "none"), shard
            )
        )
        changed = refreshed.embedded / full.embedded
        runs.append(
            {
                "users": full.users,
                "refresh_seconds": seconds,
                "full_seconds": whole,
                "changed": changed,
                "ratio": seconds / whole,
                "of_changed_share": seconds / whole / changed,
                "again_seconds": again,
                "full_users_per_second": full.users / whole,
            }
        )
        print(f"shard {shard}: {runs[-1]}")
    rest, _ = timed(lambda: keep_others(days[1], options))
    print(f"the other shards' profiles in {rest:.0f} s")
    return {
        "refresh": {key: statistics.median(run[key] for run in runs) for key in runs[0]} | {"shards": len(runs)},
        "point reads": point_reads(days[1], options),
        "bytes a user": bytes_a_user(days[1], options, sum(run["users"] for run in runs)),
    }


# -- the store --------------------------------------------------------------------------------------------------


def simulate(root: Path, users: int, shards: int) -> None:
    """Day partitions written as an ingest leaves them, without the logs."""
    store = Partitions.prepare(root, shards, MODALITIES)
    store.found()
    rng = np.random.default_rng(0)
    table = TextTable(store.texts)
    words = [f"{place} {thing}" for place in PLACES for thing in THINGS][:TEXTS]
    kind = np.arange(len(words)) % len(MODALITIES)
    ids = np.zeros(len(words), np.uint64)
    for m, modality in enumerate(MODALITIES):
        own = [words[i] for i in np.flatnonzero(kind == m)]
        category = [word.split()[0] for word in own]
        ids[kind == m] = table.ids(modality, pl.Series(category), pl.Series(own)).to_numpy()
    table.save()
    names = pl.Series("user_id", [f"user-{n:08d}" for n in range(users)])
    place = shard_of(names, shards)
    # some are active nearly every day, most now and then, a fifth of them on any day; on such a day a user does much
    active = rng.beta(0.25, 1.0, users)
    events = np.exp(rng.normal(np.log(MEDIAN), 1.0, users)) / (DAYS * ACTIVE)
    for day in range(DAYS + 1):
        number = np.where(rng.random(users) < active, 1 + rng.poisson(events), 0)
        owner = np.repeat(np.arange(users), number)
        text = (rng.zipf(1.3, len(owner)) + owner * 7) % len(words)
        rows = pl.DataFrame(
            {
                "user_id": names.gather(owner),
                "second": rng.integers(0, 86_400, len(owner)).astype(np.int32),
                "modality": kind[text].astype(np.uint8),
                "text": ids[text],
                "value": np.where(kind[text] == 0, rng.lognormal(3, 1, len(owner)), np.nan).astype(np.float32),
                "part": np.zeros(len(owner), np.uint32),
                "shard": place[owner],
            }
        )
        parts = rows.partition_by("shard", as_dict=True, include_key=False)
        published = ((int(key[0]), frame) for key, frame in parts.items())
        store.publish(day_of(START) + day, published, {"simulated": Part(len(rows), 0)})


KINDS = ("Corner", "North", "River", "Metro", "Grand", "Happy", "Old", "Blue")
PLACES = [f"{kind}{n}" for kind in KINDS for n in range(20)]
THINGS = """coffee shop, supermarket, takeaway food, concert ticket, hotel booking, train ticket, phone bill, rent,
transfer to a friend, bank card repayment, forest energy, red packet, pharmacy, game top-up, fund purchase, shoes,
insurance page, coupon centre, big sale page, brand store, parcel, school fees, taxi ride, cinema, clinic"""
THINGS = THINGS.replace("\n", " ").split(", ")


def keep_others(job: Job, options: argparse.Namespace) -> None:
    """Profiles of the shards that were not refreshed, so that the store is whole."""
    store = EventStore(job.store, job.modalities, job.lookback_days)
    for shard in range(options.measured, options.shards):
        users = store.population(job.as_of, 1, shard)
        keys = pl.DataFrame({"user_id": users}).with_columns(as_of=pl.lit(job.as_of).cast(pl.Datetime("us")))
        profiles = store.profiles(keys)
        with ProfileShard.at(job.profiles, shard) as kept, kept.writing():
            kept.put(profiles)
            kept.stand_at(State(job.as_of, store.files(shard, job.as_of)))


# -- measuring --------------------------------------------------------------------------------------------------


def point_reads(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    texts = EventStore(job.store, job.modalities, job.lookback_days).texts()
    store = ProfileStore(job.profiles, options.shards, job.modalities)
    asked = np.random.default_rng(1).integers(0, options.users, options.reads)
    users = [f"user-{n:08d}" for n in asked]
    cold = drop_caches()

    def read(user: str) -> float:
        start = time.perf_counter()
        try:
            store.get(user, texts)
        except Exception:  # few users have no event at all
            return np.nan
        return 1e3 * (time.perf_counter() - start)

    found = {}
    for name in ("first", "again"):
        times = np.array([read(user) for user in users])
        times = times[np.isfinite(times)]
        found[name] = {f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 99, 99.9)} | {"reads": len(times)}
    return found | {"first_is_cold": cold}


def drop_caches() -> bool:
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def bytes_a_user(job: Job, options: argparse.Namespace, embedded: int) -> dict[str, float]:
    def size(folder: Path, pattern: str) -> int:
        return sum(path.stat().st_size for path in folder.rglob(pattern))

    parts = {
        "events": size(job.store / "events", "*.parquet") / options.users,
        "texts": (job.store / "texts.parquet").stat().st_size / options.users,
        "profile": size(job.profiles, "*.sqlite") / options.users,
        "embeddings": size(job.snapshots / f"as_of={job.as_of}", "*.parquet") / embedded,
    }
    total = sum(parts.values())
    return parts | {"total": total, "paper": PAPER_BUFFER, "times_less": PAPER_BUFFER / total}


def report(result: dict[str, Any], options: argparse.Namespace) -> None:
    console = Console(width=120)
    refresh, reads, size = result["refresh"], result["point reads"], result["bytes a user"]
    table = Table("measure", "found", "aim")
    table.add_row("changed share of the day (20% active)", f"{refresh['changed']:.1%}", "")
    table.add_row("refresh / full embed", f"{refresh['ratio']:.3f}", "")
    table.add_row("the same / the changed share", f"{refresh['of_changed_share']:.2f}", "at most 1.10")
    table.add_row("users a second, full, ten scenarios", f"{refresh['full_users_per_second']:,.0f}", "")
    table.add_row("a second refresh, s a shard", f"{refresh['again_seconds']:.2f}", "nothing to do")
    for name, label in (("first", "cold" if reads["first_is_cold"] else "first"), ("again", "warm")):
        row = reads[name]
        table.add_row(
            f"point read, {label}: p50, p99, p99.9",
            f"{row['p50_ms']:.2f}, {row['p99_ms']:.2f}, {row['p99.9_ms']:.2f} ms",
            "p99 < 5 ms",
        )
    for part in ("events", "texts", "profile", "embeddings", "total"):
        table.add_row(f"bytes a user: {part}", f"{size[part]:,.0f}", "")
    table.add_row("the paper's token buffer / total", f"{size['times_less']:,.0f}x", "at least 100x")
    this = machine("cpu")
    console.print(f"{this['device']}, {this['cores']} cores, load {this['load']:.1f}; {options.users:,} users")
    console.print(table)
    settings = {"users": options.users, "shards": options.shards, "reads": options.reads}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"machine": this, "targets": TARGETS, "settings": settings, **result}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
