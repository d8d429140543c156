"""The bench: methods, each fitted on the same users and judged alike, one cached unit a (method, setting, seed).

Every setting of a method is tried with the first seed; the one whose probes tell the validation users best is run with
the other seeds. A finished unit is kept under the hash of all that it was made from, so that a killed bench goes on,
and a changed one runs what has changed.

Shapes: N rows (a user at an `as_of`), W features, O dimensions.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from qanchor.baselines.baseline import Classifier
from qanchor.probe.linear import Answers, Probe, labelled
from qanchor.probe.metrics import auc, ks

Array = npt.NDArray[np.float32]
Setting = Mapping[str, Any]
Features = Array | Mapping[str, Array]
"""[N, W] for all scenarios alike, or scenario -> [N, O]."""


@dataclass(frozen=True)
class Method:
    """One entry of the contest."""

    embed: Callable[[Setting, int], Mapping[str, Features]]
    """(setting, seed) -> row of the table -> features. Most methods have one row, of their own name."""
    settings: tuple[Setting, ...] = ({},)
    seeds: tuple[int, ...] = (0, 1, 2)
    """(0,) where nothing is left to chance."""
    judges: Mapping[str, Callable[[int], Classifier]] = field(default_factory=dict)
    """Rows that something else than the linear probe judges: a classifier of a seed."""
    kept: bool = True
    """Whether the features are worth keeping with the unit."""
    ours: bool = False
    """Our model, in whatever form: the others are what it is compared with."""
    config: Any = None
    """What a unit depends on beside setting and seed, the data and the labels."""
    measure: Callable[[Setting, int], Mapping[str, Any]] | None = None
    """What else is told of a unit, as JSON holds it: asked after `embed`, with the same arguments."""


@dataclass(frozen=True)
class Unit:
    method: str
    setting: Setting
    seed: int

    @property
    def label(self) -> str:
        told = ", ".join(f"{key} {value}" for key, value in self.setting.items())
        return f"{self.method} · {told} · seed {self.seed}" if told else f"{self.method} · seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What a unit found."""

    unit: Unit
    seconds: float
    """Of a processor: fitting, embedding and judging, however busy the machine was."""
    rows: dict[str, dict[str, dict[str, Any]]]
    """row -> scenario -> auc, ks (test), validation_auc, reason."""
    measured: dict[str, Any] = field(default_factory=dict)
    """What the method's `measure` told."""

    @property
    def validation_auc(self) -> float:
        """Mean over the scenarios of the first row: what settings are chosen by."""
        first = next(iter(self.rows.values()))
        known = [told["validation_auc"] for told in first.values() if told["validation_auc"] is not None]
        return float(np.mean(known)) if known else nan

    @property
    def average(self) -> dict[str, float]:
        """row -> average AUC on test users."""
        known = {row: [t["auc"] for t in of.values() if t["auc"] is not None] for row, of in self.rows.items()}
        return {row: float(np.mean(aucs)) if aucs else nan for row, aucs in known.items()}


@dataclass(frozen=True)
class Field:
    """The rows that all methods are judged on."""

    data: str
    split: npt.NDArray[np.str_]
    """[N] train, validation, test."""
    users: npt.NDArray[np.str_]
    """[N] ids."""
    labels: Mapping[str, Array]
    """scenario -> [N] of 0, 1, NaN (not asked)."""
    digest: str
    """Changes with the data, the rows and the labels."""

    @property
    def test(self) -> npt.NDArray[np.bool_]:
        """[N] rows of the test."""
        test: npt.NDArray[np.bool_] = self.split == "test"
        return test


class Bench:
    def __init__(self, folder: Path, field: Field, methods: Mapping[str, Method]) -> None:
        """Units are files in `folder`."""
        self.folder, self.field, self.methods = folder, field, methods

    def first(self, names: Iterable[str]) -> list[Unit]:
        """Every setting of these methods, with the first seed."""
        return [Unit(n, s, self.methods[n].seeds[0]) for n in names for s in self.methods[n].settings]

    def rest(self, names: Iterable[str], seeds: int) -> list[Unit]:
        """The chosen setting of each method with its other seeds, up to `seeds` in all."""
        chosen = ((name, self.chosen(name)) for name in names)
        return [Unit(n, u.setting, seed) for n, u in chosen if u for seed in self.methods[n].seeds[1:seeds]]

    def chosen(self, name: str) -> Unit | None:
        """The first seed's unit with the highest validation AUC; None where none is finished."""
        done = [outcome for unit in self.first([name]) if (outcome := self.outcome(unit))]
        return max(done, key=lambda outcome: np.nan_to_num(outcome.validation_auc)).unit if done else None

    def path(self, unit: Unit) -> Path:
        """The unit's JSON; its scores and embeddings lie beside it as safetensors."""
        method = self.methods[unit.method]
        made_from = [self.field.digest, unit.method, dict(unit.setting), unit.seed, method.config]
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()[:12]
        slug = re.sub(r"[^\w.]+", "-", unit.method).strip("-")
        return self.folder / f"{slug}-{unit.seed}-{digest}.json"

    def outcome(self, unit: Unit) -> Outcome | None:
        """What is known of a unit; None when it is not finished."""
        path = self.path(unit)
        if not path.exists():
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        return Outcome(unit, told["seconds"], told["rows"], told.get("measured", {}))

    def run(self, unit: Unit) -> Outcome:
        """Fit, embed, judge and keep a unit, unless it is finished."""
        if known := self.outcome(unit):
            return known
        start = time.process_time()
        method = self.methods[unit.method]
        features = method.embed(unit.setting, unit.seed)
        answers = {row: self._judge(row, of, method, unit.seed) for row, of in features.items()}
        rows = {row: {name: self._told(name, told) for name, told in of.items()} for row, of in answers.items()}
        seconds = round(time.process_time() - start, 1)
        outcome = Outcome(unit, seconds, rows, dict(method.measure(unit.setting, unit.seed)) if method.measure else {})
        arrays: dict[str, npt.NDArray[Any]] = {
            f"score/{row}/{n}": a.score[self.field.test] for row, of in answers.items() for n, a in of.items()
        }
        if method.kept:
            arrays |= dict(_flat(features))
        self._keep(outcome, arrays)
        return outcome

    def scores(self, unit: Unit, row: str) -> dict[str, Array]:
        """scenario -> [test rows] scores of a finished unit."""
        with safe_open(self.path(unit).with_suffix(".safetensors"), "numpy") as arrays:
            return {name: arrays.get_tensor(f"score/{row}/{name}") for name in self.field.labels}

    def kept(self, unit: Unit, row: str) -> Mapping[str, str]:
        """scenario -> name of the array of a finished unit's features; empty where they were not kept."""
        with safe_open(self.path(unit).with_suffix(".safetensors"), "numpy") as arrays:
            known = set(arrays.keys())
        if f"embedding/{row}" in known:
            return dict.fromkeys(self.field.labels, f"embedding/{row}")
        own = {name: f"embedding/{row}/{name}" for name in self.field.labels}
        return own if known.issuperset(own.values()) else {}

    def array(self, unit: Unit, name: str) -> npt.NDArray[np.float16]:
        """[N, O] features of a finished unit in half precision, by the name that `kept` gives."""
        with safe_open(self.path(unit).with_suffix(".safetensors"), "numpy") as arrays:
            array: npt.NDArray[np.float16] = arrays.get_tensor(name)
        return array

    def _judge(self, row: str, features: Features, method: Method, seed: int) -> dict[str, Answers]:
        labels = self.field.labels
        if row in method.judges:
            of = features if isinstance(features, Mapping) else dict.fromkeys(labels, np.asarray(features, np.float32))
            return {name: self._classified(method.judges[row](seed), of[name], y) for name, y in labels.items()}
        if isinstance(features, Mapping):
            return {name: Probe(features[name], self.field.split).answer(y) for name, y in labels.items()}
        probe = Probe(features, self.field.split)
        return {name: probe.answer(y) for name, y in labels.items()}

    def _classified(self, classifier: Classifier, X: Array, y: Array) -> Answers:
        rows, reason = labelled(self.field.split, y)
        told = np.full(len(y), nan, np.float32)
        if reason:
            return Answers(told, nan, reason)
        train, validation, test = (rows[part] for part in ("train", "validation", "test"))
        classifier.fit(X[train], y[train], X[validation], y[validation])
        told[test] = classifier.score(X[test])
        return Answers(told, auc(y[validation], classifier.score(X[validation])))

    def _told(self, name: str, answers: Answers) -> dict[str, Any]:
        if answers.reason:
            return {"auc": None, "ks": None, "validation_auc": None, "reason": answers.reason}
        y = self.field.labels[name]
        rows = self.field.test & ~np.isnan(y)
        found = {"auc": auc(y[rows], answers.score[rows]), "ks": ks(y[rows], answers.score[rows])}
        return found | {"validation_auc": answers.validation_auc, "reason": ""}

    def _keep(self, outcome: Outcome, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Arrays first: a JSON that is there says that all is."""
        path, unit = self.path(outcome.unit), outcome.unit
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, fresh)
        os.replace(fresh, path.with_suffix(".safetensors"))
        told = {"method": unit.method, "setting": dict(unit.setting), "seed": unit.seed, "seconds": outcome.seconds}
        told |= {"rows": outcome.rows} | ({"measured": outcome.measured} if outcome.measured else {})
        fresh.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, path)


def _flat(features: Mapping[str, Features]) -> Iterator[tuple[str, npt.NDArray[np.float16]]]:
    """Half precision: they are kept for pictures, the scores are of the whole ones."""
    for row, of in features.items():
        if isinstance(of, Mapping):
            yield from ((f"embedding/{row}/{name}", array.astype(np.float16)) for name, array in of.items())
        else:
            yield f"embedding/{row}", np.clip(of, -6e4, 6e4).astype(np.float16)


def play(
    bench: Bench,
    names: Sequence[str],
    seeds: int,
    execute: Callable[[Sequence[Unit]], Iterator[tuple[Unit, Outcome | str]]],
) -> Iterator[tuple[Unit, Outcome | str]]:
    """All units of these methods, as they are finished: with what they found, or with why there is nothing.

    `execute` runs units in any order. Those that are finished already come first and at once.
    """
    for units in (bench.first, lambda names: bench.rest(names, seeds)):
        asked = units(names)
        known = [(unit, outcome) for unit in asked if (outcome := bench.outcome(unit))]
        yield from known
        done = {id(unit) for unit, _ in known}
        yield from execute([unit for unit in asked if id(unit) not in done])
