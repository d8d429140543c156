"""How fast a soft prompt is tuned: `python benchmarks/tuning.py [--run runs/demo]` prints a table and writes JSON.

Tunes one scenario of a finished run anew, over prefixes kept in memory, kept on disk, and recomputed at every step (one
pass over prefix and suffix, as if nothing were kept), and all its scenarios in one run. Each number is the median of
`--repeats` runs, which take turns. The floor of a step is the work of its suffixes alone: FLOPs at the rate at which
this machine multiplies large matrices, or the bytes of the users drawn at the rate at which it copies, whichever takes
longer. Target: 500 steps of one scenario on wallet, validation included, in 30 seconds on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from qanchor.config import Tune
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.batch import collate
from qanchor.model.prefixes import PrefixCache
from qanchor.model.towers import Towers
from qanchor.pipeline import TRAINING_SPLITS, Project
from qanchor.training.pretrain import autocast
from qanchor.training.sample import Labelled
from qanchor.training.tune import TuneStep, Tuning

TARGET = 30.0
T = TypeVar("T")


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--run", type=Path, default=Path("runs/demo"))
    arguments.add_argument("--config", type=Path, help="left out, RUN/raw/qanchor.yaml")
    arguments.add_argument("--scenario", default="takeout")
    arguments.add_argument("--steps", type=int, default=500)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--users", type=int, help="at most so many (user, as_of); left out, all")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tuning.json")
    options = arguments.parse_args()
    project = Project.open(options.config or options.run / "raw" / "qanchor.yaml", options.run, Console(stderr=True))
    report(measure(project, options), options)


def measure(project: Project, options: argparse.Namespace) -> dict[str, object]:
    towers = persistence.load(project.out / "model")
    rows = np.concatenate([project.rows(split)[: options.users] for split in TRAINING_SPLITS])
    past, queries = project.past.take(rows), {name: s.query for name, s in project.config.scenarios.items()}
    train = len(project.rows("train")[: options.users])
    labelled = {}
    for name, label in project.labels.items():
        y = label[rows]
        asked = [np.flatnonzero(np.isfinite(y[part])) + part.start for part in (slice(0, train), slice(train, None))]
        labelled[name] = Labelled(*(x for part in asked for x in (part, y[part].astype(np.int64))))

    with tempfile.TemporaryDirectory(prefix="qanchor-tuning-") as folder:
        seconds, memory = timed(lambda: PrefixCache(QAnchor(towers).prefixes(past), 1e6))
        disk = PrefixCache(QAnchor(towers).prefixes(past), 0, Path(folder))
        anew = Recomputed(towers, past, memory)
        one = {options.scenario: labelled[options.scenario]}
        kinds = {
            "kept in memory": (memory, one, options.steps),
            "kept on disk": (disk, one, options.steps),
            "recomputed every step": (anew, one, max(2, options.steps // 10)),
            "kept in memory, all scenarios": (
                memory,
                {name: part for name, part in labelled.items() if not part.lacking},
                max(2, options.steps // 10),
            ),
        }
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for _ in range(options.repeats):
            for kind, (cache, part, steps) in kinds.items():
                runs[kind].append(tune(towers, cache, queries, part, past.as_of, steps))
    results = {}
    for kind, (_, part, _) in kinds.items():
        middle = {key: statistics.median(run[key] for run in runs[kind]) for key in runs[kind][0]}
        results[kind] = middle | {"scenarios": len(part), "step_ms_a_scenario": middle["step_ms"] / len(part)}
    return {
        "prefixes": {"users": len(rows), "seconds": seconds, "mib": memory.nbytes / 2**20},
        "runs": results,
        "floor": floor(towers, memory, queries[options.scenario], one[options.scenario]),
    }


class Recomputed:
    """What a `PrefixCache` gives, computed whenever it is asked for: the baseline."""

    def __init__(self, towers: Towers, past: object, lengths: PrefixCache) -> None:
        self.towers, self.past = towers, past
        self.length_N, self.tally_NY = lengths.length_N, lengths.tally_NY
        self.indexed = towers.text_encoder.index(past.texts.described)

    def take(self, rows: np.ndarray) -> tuple[object, None]:
        with torch.no_grad(), autocast(self.towers):
            batch = collate(self.past, rows, persistence.kept_events(self.towers))
            return self.towers.prefix(batch, self.indexed), None


def tune(
    towers: Towers,
    cache: object,
    queries: dict[str, str],
    part: dict[str, Labelled],
    as_of: np.ndarray,
    steps: int,
) -> dict:
    """Seconds of one run: its start, its steps, its checks of validation users."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Tune(steps=steps, validate_every=max(1, steps // 5))
        start, tuning = timed(lambda: Tuning(towers, cache, queries, part, as_of, {}, settings, 0, Path(folder)))
        spent = {"steps": 0.0, "checks": 0.0}
        last, busy = time.perf_counter(), time.process_time()
        for done in tuning.run():
            now = time.perf_counter()
            spent["steps" if isinstance(done, TuneStep) else "checks"] += now - last
            last = now
    return {
        "seconds": start + sum(spent.values()),
        "cpu_seconds": time.process_time() - busy,
        "start_seconds": start,
        "steps_seconds": spent["steps"],
        "checks_seconds": spent["checks"],
        "steps": steps,
        "step_ms": 1e3 * spent["steps"] / steps,
    }


def floor(towers: Towers, cache: PrefixCache, query: str, part: Labelled) -> dict[str, float]:
    """What a step of one scenario cannot do without: forward, and backward to the prompt through frozen weights."""
    users, prompt = Tune().batch, len(towers.prompt)
    suffix = towers.tokens([query], "left").id_RL.shape[1] + prompt + 1
    prefix = float(cache.length_N[torch.from_numpy(part.train_row)].float().mean())
    decoder, width = towers.backbone.get_decoder(), towers.width
    layers = len(decoder.layers)
    weights = sum(p.numel() for layer in decoder.layers for p in layer.parameters() if p.ndim == 2)
    # a product y = x W costs 2 FLOPs a weight forward and as many for the gradient of x; W is frozen
    products = 4 * weights * suffix
    attention = 8 * layers * width * suffix * (prefix + suffix / 2)
    # each prompt vector reads the events: match in the text space, pooled values, per head
    readers = prompt * towers.seed.heads if towers.seed else 0
    text = towers.text_encoder.width
    reading = 4 * readers * (text * text / users + text * prefix) + 4 * prompt * width * prefix
    flops = users * (products + attention + reading)
    size = users * prefix * cache.nbytes / len(cache.word_LX)
    rate, bandwidth = matmul_rate(towers.dtype), copy_rate()
    return {
        "gflop": flops / 1e9,
        "gflop_per_second": rate / 1e9,
        "mib": size / 2**20,
        "gib_per_second": bandwidth / 2**30,
        "step_ms": 1e3 * max(flops / rate, size / bandwidth),
    }


def matmul_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """FLOPs a second of a large product in what the backbone computes in."""
    a = torch.randn(size, size).to(dtype)
    return 2 * size**3 / statistics.median(timed(lambda: a @ a)[0] for _ in range(9))


def copy_rate(size: int = 2**28) -> float:
    """Bytes a second, read and written elsewhere."""
    a = torch.ones(size, dtype=torch.uint8)
    b = torch.empty_like(a)
    return size / statistics.median(timed(lambda: b.copy_(a))[0] for _ in range(5))


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def report(measured: dict, options: argparse.Namespace) -> None:
    runs, lowest, prefixes = measured["runs"], measured["floor"], measured["prefixes"]
    own = runs["kept in memory"]
    columns = ("seconds", "cpu_seconds", "start_seconds", "checks_seconds", "steps_seconds", "step_ms")
    names = ("seconds", "cpu s", "start", "checks", "steps", "ms a step", "a scenario", "to memory", "to floor")
    table = Table("prefixes", "steps", *names)
    for kind, run in runs.items():
        a_step = run["step_ms_a_scenario"]
        table.add_row(
            kind,
            f"{run['steps']:.0f}",
            *(f"{run[key]:.1f}" for key in columns),
            f"{a_step:.1f}",
            f"{a_step / own['step_ms']:.2f}x",
            f"{a_step / lowest['step_ms']:.1f}x",
        )
    console = Console(width=140)
    console.print(f"{cpu()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    console.print(table)
    console.print(
        f"floor {lowest['step_ms']:.2f} ms a step: {lowest['gflop']:.2f} GFLOP at {lowest['gflop_per_second']:.0f} "
        f"GFLOP/s, {lowest['mib']:.1f} MiB at {lowest['gib_per_second']:.1f} GiB/s\n"
        f"prefixes of {prefixes['users']:,} users, once: {prefixes['seconds']:.1f} s, {prefixes['mib']:,.0f} MiB\n"
        f"one scenario in memory: {own['seconds']:.1f} s for {own['steps']:.0f} steps, target {TARGET:.0f} s for 500"
    )
    machine = {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": machine, "scenario": options.scenario, "target_seconds": TARGET, **measured}
    options.out.write_text(json.dumps(data, indent=1) + "\n")


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
