"""Our own model inside a bench: one run folder for each UserU, for each pretraining, and for each way to tune that.

What a stage has done already is not done again, so that five ways to tune cost one pretraining, and pretrainings of
models that differ learn from one UserU; processes that want the same one wait for whoever is at it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from qanchor.config import Config
from qanchor.events import atomic
from qanchor.inference.attention import modality_attention
from qanchor.inference.engine import QAnchor
from qanchor.pipeline import Project
from qanchor.stages import Stages

LOOKED_AT = 500
"""Test users whose attention is averaged."""
STEPS = 500
"""Steps of pretraining whose gradient is told: Figure 11 looks at where training begins."""


def trained(bench: Path, run: Project, settings: Config, kinds: Sequence[str]) -> Project:
    """Our model under one config: pretrained, tuned where `kinds` of embeddings ask for it, every request embedded.

    Args:
        bench: where the models of a bench are kept.
        run: whose events are read; `settings` differ from its config in model, training and UserU alone.
    """
    pretrained = _pretrained(bench, run, settings)
    own = _like(run, settings, pretrained / "tuned" / _digest(settings))
    _borrow(pretrained, own.out)
    if "tuned" in kinds:
        counted = run.out / "counted"
        with _alone(counted):
            run.count()
        _take(run.out, own.out, ("count",), (counted.name,))
    own.embed_requests(kinds)
    return own


def surveyed(bench: Path, run: Project, settings: Config) -> Path:
    """The folder of a UserU, finished: named by all of a config that it is made from."""
    parts = settings.model_dump_json(
        include={"useru": True, "windows": True, "users": True, "modalities": True, "training": {"seed"}}
    )
    folder = (bench / f"useru-{hashlib.sha256(parts.encode()).hexdigest()[:12]}").resolve()
    with _alone(folder):
        _take(run.out, folder, ("ingest",), ("store",))
        _like(run, settings, folder).useru()
    return folder


def measured(own: Project) -> dict[str, Any]:
    """What the pictures need of a trained model: attention by kind, scenario and modality, and training's gradient."""
    rows = np.random.default_rng(0).permutation(own.rows("test"))[:LOOKED_AT]
    model, names = QAnchor.from_pretrained(own.out / "model", own.out / "vectors"), list(own.config.scenarios)
    queries = [own.config.scenarios[name].query for name in names]
    share_NGM = modality_attention(model, own.past.take(np.sort(rows)), names, queries)
    share_2GM = share_NGM.mean(0).reshape(2, len(names), -1)
    attention = {
        kind: {
            name: dict(zip(own.past.modalities, share_M.round(5).tolist(), strict=True))
            for name, share_M in zip(names, share_GM, strict=True)
        }
        for kind, share_GM in zip(("tuned", "base"), share_2GM, strict=True)
    }
    return {"attention": attention, "gradient": _gradient(own.out.parent.parent / "metrics.jsonl")}


def _gradient(log: Path) -> dict[str, Any]:
    """Length of the first steps' gradients, how many of them align, and mean and maximum of |g| at the end."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    steps = [line for line in lines if line["kind"] == "step"][:STEPS]
    checks = [line for line in lines if line["kind"] == "validation"]
    if not steps or not checks:
        return {}
    return {
        "norm": [float(f"{line['norm']:.4g}") for line in steps],
        "align": sum(line["phase"] == "align" for line in steps),
        "mean": checks[-1]["gradient_mean"],
        "max": checks[-1]["gradient_max"],
    }


def _pretrained(bench: Path, run: Project, settings: Config) -> Path:
    """The folder of a pretraining, finished; only its log stays of the checkpoints."""
    folder, pairs = (bench / _digest(settings, "tune")).resolve(), surveyed(bench, run, settings)
    with _alone(folder):
        _take(pairs, folder, ("ingest", "useru"), ("store", "useru"))
        _like(run, settings, folder).pretrain()
        for log in (folder / "checkpoints").glob("*/metrics.jsonl"):
            os.replace(log, folder / "metrics.jsonl")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder


def _like(run: Project, settings: Config, folder: Path) -> Project:
    """The same requests and their profiles, read once for all that are trained on them."""
    own = Project(settings, Stages(folder, Console(quiet=True)))
    own.requests, own.past, own.future = run.requests, run.past, run.future
    return own


def _take(there: Path, here: Path, stages: tuple[str, ...], folders: tuple[str, ...]) -> None:
    """What another run folder has done: copies of its stamps, links to what it made."""
    for name in folders:
        _link(there / name, here / name)
    for name in stages:
        # in one step: another process may be reading it
        atomic.write(here / "stages" / f"{name}.json", (there / "stages" / f"{name}.json").read_bytes())


def _borrow(pretrained: Path, own: Path) -> None:
    """All that tuning reads of a pretraining, by links; a folder that was tuned from another one begins anew."""
    stamp = pretrained / "stages" / "pretrain.json"
    known = own / "stages" / "pretrain.json"
    if known.exists() and known.read_text() == stamp.read_text():
        return
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    shutil.copytree(pretrained / "model", own / "model", copy_function=os.symlink)
    (pretrained / "vectors").mkdir(exist_ok=True)
    _take(pretrained, own, ("ingest", "useru", "pretrain"), ("store", "vectors"))


def _link(there: Path, here: Path) -> None:
    if not here.is_symlink():
        shutil.rmtree(here, ignore_errors=True)  # an older version's own
        here.symlink_to(there.resolve())


def _digest(settings: Config, *but: str) -> str:
    """A folder's name for a config, whatever its `training` says of some parts."""
    return hashlib.sha256(settings.model_dump_json(exclude={"training": set(but)}).encode()).hexdigest()[:12]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is at this folder; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
