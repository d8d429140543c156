"""Play units of `qanchor bench` on a machine that is lent for minutes: many processes share its GPU, none waits.

    python benchmarks/on_device.py --runs /tmp/qa --out $OUT --data oulad --data wallet --workers 16 --seconds 400 \
        --play "qanchor,untrained@3" --play "cpc,found@3" --play "study:prompts,study:steps@1"

RUNS holds a run folder for each data set, ingested (`raw/qanchor.yaml`, `store/`, `stages/`) and counted
(`counted/`), at the path where it was ingested, so that its units fit the bench there. Each `--play` names methods and
studies and, behind @, how many seeds; what is named first goes first (later again, with more seeds), and of one
`--play` the longest. A unit waits for no other: the UserU that it learns from is built before, and one pretraining is
run by one unit alone. After SECONDS none is started; GRACE seconds later those still running are ended.

OUT gets six files at most, each under 16 MiB: `log.jsonl` (a line a unit: seconds, card, error), `units.tar` (JSON) and
`scores-N.tar` (test rows' scores; not the embeddings), as they would lie in RUNS. Times of units that share a GPU are
not times of a GPU; `qanchor bench` on one process measures those.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.numpy import load_file, save_file

from qanchor import contest, trained
from qanchor.evaluation.bench import Bench, Method, Unit
from qanchor.evaluation.studies import STUDIES
from qanchor.model import backbone
from qanchor.pipeline import Project

LIMIT, PARCELS = 15 << 20, 4
"""Bytes of a tar, and how many of scores."""
HOPELESS = 8
"""Failures without a success after which the rest is not tried."""
SIZES = {"wallet": 2.9, "travel": 2.6, "retail": 1.9, "pcard": 1.6}
"""Work of a unit against oulad's."""
THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MPS = ("/usr/local/nvidia/bin", "/usr/bin", "/usr/local/cuda/bin")

Reply = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A unit; or, `builds`, the UserU that it and others learn from."""

    data: str
    place: int
    """Of its `--play`."""
    unit: Unit
    survey: str = ""
    pretraining: str = ""
    """What UserU it learns from, and what is pretrained on that; empty where the method is not ours."""
    builds: bool = False

    @property
    def label(self) -> str:
        return f"{self.data}: {'UserU of ' * self.builds}{self.unit.label}"

    @property
    def cost(self) -> float:
        """Rough seconds."""
        long = self.survey or self.unit.method.startswith("text:")
        return (20 if self.builds else 60 if long else 30) * SIZES.get(self.data, 1.0)


class Plan:
    """What is left to do, and which of it may start."""

    def __init__(self, runs: Path, data: list[str], plays: list[str]) -> None:
        self.methods: dict[tuple[str, str], Method] = {}
        self.left: list[Task] = []
        self.asked: dict[tuple[str, str], int] = {}
        """(data, method) -> seeds."""
        self.later: dict[tuple[str, str], tuple[int, int]] = {}
        """(data, method) whose setting is chosen when all were tried: place and seeds."""
        self.tried: dict[tuple[str, str], list[tuple[float, Unit]]] = {}
        self.built: set[str] = set()
        self.busy: set[str] = set()
        self.trained: set[str] = {""}
        """Pretrainings that a unit is at, and those that one has ended with."""
        for name in data:
            project = opened(runs, name)
            for place, play in enumerate(plays):
                names, _, seeds = play.rpartition("@")
                for part in names.split(","):
                    study = part.removeprefix("study:")
                    known = contest.points(project, study) if study in STUDIES else contest.entries(project, [part])
                    for own in known if study in STUDIES else [part]:
                        self.methods.setdefault((name, own), known[own])
                        self._add(name, place, own, int(seeds))
        first: dict[str, Task] = {}
        for task in sorted(self.left, key=lambda task: task.place):
            if task.survey:
                first.setdefault(task.survey, Task(task.data, task.place, task.unit, task.survey, builds=True))
        self.left += first.values()

    def next(self, known: set[str]) -> Task | None:
        """The task to start now; of equal ones, one of a data set that the worker knows."""
        free = [task for task in self.left if task.builds or self._free(task)]
        if not free:
            return None
        chosen = min(free, key=lambda task: (task.place, not task.builds, -task.cost, task.data not in known))
        self.left.remove(chosen)
        self.busy.add(chosen.pretraining)
        return chosen

    def _free(self, task: Task) -> bool:
        """Whether it would wait for no other."""
        pretrained = task.pretraining in self.trained or task.pretraining not in self.busy
        return pretrained and (not task.survey or task.survey in self.built)

    def ended(self, task: Task, reply: Reply) -> None:
        self.busy.discard(task.pretraining)
        self.trained.add(task.pretraining)
        if task.builds:
            self.built.add(task.survey)
            return
        at = task.data, task.unit.method
        method, tried = self.methods[at], self.tried.setdefault(at, [])
        tried.append((reply.get("validation_auc", -1.0), task.unit))
        if at in self.later and len(tried) == len(method.settings):
            (place, seeds), best = self.later.pop(at), max(tried, key=lambda one: one[0])[1]
            self.left += [self._task(task.data, place, best, seed) for seed in method.seeds[1:seeds]]

    def _add(self, data: str, place: int, name: str, seeds: int) -> None:
        """What no earlier `--play` has asked for."""
        method, asked = self.methods[data, name], self.asked.get((data, name), 0)
        self.asked[data, name] = max(asked, seeds)
        first = [Unit(name, setting, method.seeds[0]) for setting in method.settings]
        if not asked:
            self.left += [self._task(data, place, unit, unit.seed) for unit in first]
        if len(first) == 1:
            self.left += [self._task(data, place, first[0], seed) for seed in method.seeds[max(1, asked) : seeds]]
        elif seeds > 1:
            self.later.setdefault((data, name), (place, seeds))

    def _task(self, data: str, place: int, unit: Unit, seed: int) -> Task:
        unit, config = Unit(unit.method, unit.setting, seed), self.methods[data, unit.method].config
        if config is None:
            return Task(data, place, unit)
        parts = config[0]
        survey = [data, seed, parts["useru"], parts["modalities"]]
        pretraining = [survey, parts["model"], {**parts["training"], "tune": None}]
        return Task(data, place, unit, json.dumps(survey), json.dumps(pretraining))


def opened(runs: Path, data: str) -> Project:
    return Project.open(runs / data / "raw" / "qanchor.yaml", runs / data, Console(quiet=True))


# -- a worker ---------------------------------------------------------------------------------------------------------


def work(pipe: Connection, core: int, runs: Path, texts: list[str], dtype: str, share: float) -> None:
    """A process of its own core and of a share of the GPU: does what it is sent, until it is ended."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    if dtype != "auto":  # the embedded backbone is small: without casts it is faster, and its numbers are a CPU's
        backbone.compute_dtype = lambda: getattr(torch, dtype)
    card = "CPU"
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
        card = torch.cuda.get_device_name()
    benches: dict[str, tuple[Project, Bench]] = {}
    while True:
        task: Task = pipe.recv()
        start, processor = time.perf_counter(), time.process_time()
        try:
            if task.data not in benches:
                project = opened(runs, task.data)
                benches[task.data] = project, contest.bench_of(project, texts)
            reply = _done(task, *benches[task.data])
        except Exception:
            reply = {"error": traceback.format_exc()}
        seconds = {"wall": time.perf_counter() - start, "processor": time.process_time() - processor}
        pipe.send({**reply, **{name: round(value, 1) for name, value in seconds.items()}, "card": card})


def _done(task: Task, project: Project, bench: Bench) -> Reply:
    if task.builds:
        parts = bench.methods[task.unit.method].config[0]
        changes = {"training.seed": task.unit.seed, "useru": parts["useru"], "modalities": parts["modalities"]}
        trained.surveyed(project.out / "bench" / "models", project, contest.changed(project.config, changes))
        return {}
    outcome, path = bench.run(task.unit), bench.path(task.unit)
    arrays = path.with_suffix(".safetensors")
    save_file({name: x for name, x in load_file(arrays).items() if name.startswith("score/")}, arrays)
    return {"path": str(path), "validation_auc": outcome.validation_auc, "average": outcome.average}


class Worker:
    """The worker as the plan sees it."""

    def __init__(self, core: int, options: argparse.Namespace, texts: list[str]) -> None:
        self.told = core, options.runs, texts, options.dtype, min(1.0, 2 / options.workers)
        self.begin()

    def begin(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=work, args=(theirs, *self.told))
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.known: set[str] = set()

    def send(self, task: Task) -> None:
        self.task = task
        self.known.add(task.data)
        self.pipe.send(task)

    def reply(self) -> Reply:
        """What came of its task. After an error it begins anew: once its GPU has failed, all that follows would."""
        try:
            reply: Reply = self.pipe.recv()
        except EOFError:
            self.process.join(5)
            reply = {"error": f"its process died with {self.process.exitcode}"}
        self.task = None
        if "error" in reply:
            self.end()
            self.begin()
        return reply

    def end(self) -> None:
        self.process.kill()
        self.process.join(5)


# -- the machine ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def shared_gpu() -> Iterator[bool]:
    """NVIDIA's Multi-Process Service, where it is there and works: kernels of several processes then run at once."""
    control = shutil.which("nvidia-cuda-mps-control", path=os.pathsep.join((os.environ.get("PATH", ""), *MPS)))
    place = {f"CUDA_MPS_{kind.upper()}_DIRECTORY": f"/tmp/mps-{kind}" for kind in ("pipe", "log")}
    works = False
    if control:
        for folder in place.values():
            Path(folder).mkdir(exist_ok=True)
        probe = "import torch; print(torch.ones(9, device='cuda').sum().item())"
        works = _ran([control, "-d"], os.environ | place) and _ran([sys.executable, "-c", probe], os.environ | place)
        os.environ |= place if works else {}
    try:
        yield works
    finally:
        if control:
            _ran([control], os.environ | place, "quit -t 5\n")


def _ran(command: list[str], environment: dict[str, str], told: str = "") -> bool:
    try:
        return subprocess.run(command, env=environment, input=told, text=True, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError) as error:
        print(error)
        return False


class Parcels:
    """What goes home: files are added as they come, so that a command that is stopped has sent what it had."""

    def __init__(self, out: Path, runs: Path) -> None:
        self.out, self.runs, self.number = out, runs, 1

    def add(self, path: Path) -> None:
        self._append("units.tar", path)
        arrays, last = path.with_suffix(".safetensors"), self.out / f"scores-{self.number}.tar"
        if last.exists() and last.stat().st_size + arrays.stat().st_size > LIMIT:
            self.number += 1
        if self.number <= PARCELS:
            self._append(f"scores-{self.number}.tar", arrays)

    def _append(self, name: str, path: Path) -> None:
        with tarfile.open(self.out / name, "a") as tar:
            tar.add(path, path.relative_to(self.runs))


def main(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    os.environ |= dict.fromkeys(THREADS, "1") | {"TOKENIZERS_PARALLELISM": "false"}
    options.out.mkdir(parents=True, exist_ok=True)
    plan, parcels = Plan(options.runs, options.data, options.play), Parcels(options.out, options.runs)
    texts = sorted({name for _, name in plan.methods if name.startswith("text:")})
    cores = sorted(os.sched_getaffinity(0))
    good = bad = 0
    with shared_gpu() as shared, (options.out / "log.jsonl").open("a") as log:
        print(f"{len(plan.left)} tasks and more, {options.workers} workers, MPS {shared}", flush=True)
        workers = [Worker(cores[n % len(cores)], options, texts) for n in range(options.workers)]
        while (passed := time.perf_counter() - start) < options.seconds + options.grace:
            for worker in workers:
                if not worker.task and passed < options.seconds and (task := plan.next(worker.known)):
                    worker.send(task)
            if not any(worker.task for worker in workers) or (bad >= HOPELESS and not good):
                break
            told = wait([worker.pipe for worker in workers if worker.task], timeout=1.0)
            for worker in workers:
                if worker.pipe in told and (task := worker.task):
                    reply = worker.reply()
                    plan.ended(task, reply)
                    good, bad = (good, bad + 1) if "error" in reply else (good + 1, bad)
                    if path := reply.pop("path", None):
                        parcels.add(Path(path))
                    at = round(time.perf_counter() - start)
                    print(json.dumps({"task": task.label, "at": at, **reply}), file=log, flush=True)
                    found = " ".join(f"{row} {auc:.4f}" for row, auc in reply.get("average", {}).items())
                    print(f"{at} s  {task.label}: {reply.get('wall')} s {found}{reply.get('error', '')}", flush=True)
        running = ", ".join(worker.task.label for worker in workers if worker.task)
        print(f"{good} done, {bad} failed, {len(plan.left)} not started, ended: {running or 'none'}", flush=True)
        for worker in workers:
            worker.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--play", action="append", required=True, help="METHOD,study:NAME,...@SEEDS")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--grace", type=float, default=60.0)
    parser.add_argument("--dtype", default="float32", help="of our own backbone: float32, bfloat16 or auto")
    main(parser.parse_args())
