"""What makes pretraining better: `python benchmarks/levers.py RUN` trains once a lever and prints a table.

Judged by linear probes on validation users only: fitted on training users, the penalty chosen on one half of the
validation users, the score taken on the other, and the other way round. `own` is the probe on the embeddings of the
scenario's query, `swapped` on those of another scenario's. RUN is a run folder with raw/ and store/, as `qanchor demo`
leaves it; one that is not there is made of a wallet of its own. Finished levers are kept in the JSON and not trained
again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from qanchor import config, datasets
from qanchor.baselines.counts import Counts
from qanchor.inference.engine import QAnchor
from qanchor.pipeline import Project
from qanchor.probe.linear import Probe
from qanchor.stages import Stages
from qanchor.training.checkpoints import Checkpoints
from qanchor.useru import dataset, future
from qanchor.useru.future import Items
from qanchor.useru.phrases import stable_hash

WALLET: dict[str, Any] = {"users": 10_000, "seed": 11}
"""The wallet that is simulated where a run folder holds no logs: another world's users than any demo's."""
SPLITS = {"users.validation": 0.3, "users.test": 0.1}
"""Its users: many to judge by, and few that are not looked at."""
ALIGNED = {"training.pretrain.align_steps": 200, "training.pretrain.steps": 0}
"""What UserU's parts are compared by: minutes a lever, and the phase that carries the result (decision 0003)."""
OPENED = {"training.pretrain.align_steps": 200, "training.pretrain.steps": 60, "last": True}
"""What the levers of the open phase are compared by: they go on from one and the same end of the align phase, and are
judged by their last weights. (By the best on validation loss, as a run keeps them, most would be the end of align.)"""
OPEN_ONLY = {f"training.pretrain.{key}" for key in ("steps", "mask", "mask_after", "ntp")}
OPEN_ONLY |= {"model.prefix_attention", "last"}
"""Settings that the align phase does not see."""
LEVERS: dict[str, dict[str, Any]] = {
    "default": {},
    "shipped, untouched": {"untouched": True},
    "shipped, adapted": {"model.start": "qanchor-small"},
    "from scratch": {"model.start": None},
    "no own topics": {"useru.uqa": 0},
    "no shared topics": {"useru.shared": 0},
    "both": {**ALIGNED},
    "D_future alone": {**ALIGNED, "only": "source == 'future'"},
    "D_uqa alone": {**ALIGNED, "only": "source == 'uqa'"},
    "summary alone, representative": {**ALIGNED, "only": "topic == 'future'"},
    "summary alone, top-k": {**ALIGNED, "only": "topic == 'future'", "select": "top_k"},
    "summary alone, random": {**ALIGNED, "only": "topic == 'future'", "select": "random_subset"},
    "align": {**ALIGNED},
    "align, another seed": {**ALIGNED, "training.seed": 1},
    "align, mixed batches": {**ALIGNED, "training.pretrain.mixed": True},
    "align, other query as a negative": {**ALIGNED, "training.pretrain.other_query": True},
    "align, value and time features": {**ALIGNED, "model.event_features": True},
    "align, value and time features, another seed": {**ALIGNED, "model.event_features": True, "training.seed": 1},
    "align, tau .03": {**ALIGNED, "training.pretrain.temperature": 0.03},
    "align, tau .15": {**ALIGNED, "training.pretrain.temperature": 0.15},
    "align, tau .3": {**ALIGNED, "training.pretrain.temperature": 0.3},
    "align, batch 128": {**ALIGNED, "training.pretrain.batch": 128},
    "align, batch 32": {**ALIGNED, "training.pretrain.batch": 32},
    "align, 1,000 steps": {**ALIGNED, "training.pretrain.align_steps": 1000},
    "align, hidden 384": {**ALIGNED, "model.hidden": 384},
    "open": {**OPENED},
    "open, hybrid attention": {**OPENED, "model.prefix_attention": "hybrid"},
    "open, mask from the start": {**OPENED, "training.pretrain.mask_after": 0.0},
    "open, mask demo": {**OPENED, "training.pretrain.mask": "demo"},
    "open, mask none": {**OPENED, "training.pretrain.mask": "none"},
    "open, NTP 0": {**OPENED, "training.pretrain.ntp": 0.0},
    "open, NTP .3": {**OPENED, "training.pretrain.ntp": 0.3},
    "open, mixed batches": {**OPENED, "training.pretrain.mixed": True},
    "open, 2 layers": {**OPENED, "model.layers": 2},
    "open, 2 layers, hybrid attention": {**OPENED, "model.layers": 2, "model.prefix_attention": "hybrid"},
    "constant <USER_EMB>": {"model.anchor": "constant", "training.pretrain.steps": 440},
}
"""Name -> settings that differ from the defaults; `only` keeps some of UserU (SQL), `select` is another objective for
the summary of the future, `untouched` trains nothing, `last` judges the last weights."""


def top_k(every: Items, action: Any) -> Items:
    """The most frequent items, whatever they are."""
    order = np.lexsort((every.text, -every.times, every.owner))
    return every.of(order[_rank(every.owner[order]) < future.ITEMS])


def random_subset(every: Items, action: Any) -> Items:
    """Any items."""
    order = np.lexsort((np.random.default_rng(0).random(len(every.owner)), every.owner))
    return every.of(order[_rank(every.owner[order]) < future.ITEMS])


def _rank(owner: Any) -> Any:
    return np.arange(len(owner)) - np.searchsorted(owner, owner)


def keep_last(checkpoints: Checkpoints, model: Any) -> None:
    """The weights that training ended with."""


LOAD_BEST, KEEP_LAST = Checkpoints.load_best, keep_last
SELECT = {"representatives": future.representatives, "top_k": top_k, "random_subset": random_subset}


def changed(base: config.Config, settings: dict[str, Any]) -> config.Config:
    data = base.model_dump(mode="json")
    for path, value in settings.items():
        if path in ("only", "select", "untouched", "last"):
            continue
        *sections, key = path.split(".")
        at = data
        for section in sections:
            at = at[section]
        at[key] = value
    return config.parse(data, base.root)


class Bench:
    """One data set's training and validation users, judged alike for every lever."""

    def __init__(self, run: Path, limit: int) -> None:
        self.run = run
        if not (run / "raw").exists():
            datasets.prepare("wallet", run / "raw", None, **WALLET)
            (run / "raw" / "OWN").touch()
        self.base = config.load(run / "raw" / "qanchor.yaml")
        if (run / "raw" / "OWN").exists():
            self.base = changed(self.base, SPLITS)
        project = Project(self.base, Stages(run, Console(stderr=True)))
        project.ingest()
        rng = np.random.default_rng(0)
        training, validation = project.rows("train"), project.rows("validation")
        self.rows = np.sort(np.concatenate([rng.permutation(training)[:limit], rng.permutation(validation)[:limit]]))
        self.past = project.past.take(self.rows)
        self.validation = np.isin(self.rows, validation)
        self.users = self.past.user_ids.astype(str)
        half = np.array([hash_half(user) for user in self.users])
        self.splits = [np.where(~self.validation, "train", np.where(half == h, "validation", "test")) for h in (0, 1)]
        labels = {name: label[self.rows] for name, label in project.labels.items()}
        self.labels = {name: label for name, label in labels.items() if self._both_classes(label)}
        hand_made = Counts().fit(self.past.take(np.flatnonzero(~self.validation))).embed(self.past)
        self.told: dict[str, Any] | None = None
        """The settings that UserU was last built with."""
        self.counts = self._probe(dict.fromkeys(self.labels, hand_made))

    def _both_classes(self, label: npt.NDArray[np.float32]) -> bool:
        return all(len(np.unique(label[(s == "test") & np.isfinite(label)])) == 2 for s in self.splits)

    def _probe(self, features: dict[str, Any]) -> dict[str, list[float]]:
        """scenario -> [AUC, KS], the mean of the two halves."""
        probes: dict[tuple[int, int], Probe] = {}
        out: dict[str, list[float]] = {}
        for name, label in self.labels.items():
            scores = []
            for h, split in enumerate(self.splits):
                key = (id(features[name]), h)
                probes[key] = probes.get(key) or Probe(features[name], split, self.users)
                score = probes[key].score(label, ())
                scores.append([score.auc, score.ks])
            out[name] = np.mean(scores, 0).round(4).tolist()
        return out

    def measure(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Survey, pretrain, embed, probe."""
        folder = self.run / "lever"
        project = Project(changed(self.base, settings), Stages(folder, Console(stderr=True)))
        if not (folder / "store").exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "store").symlink_to((self.run / "store").resolve())
        start = time.perf_counter()
        future.representatives = SELECT[settings.get("select", "representatives")]
        told = {key: value for key, value in settings.items() if key.startswith(("useru", "only", "select"))}
        if told != self.told:
            project._useru(project.config)
        self.told = told
        for part in (folder / "useru").glob("part-*.parquet") if "only" in settings else ():
            pl.read_parquet(part).sql(f"SELECT * FROM self WHERE {settings['only']}").write_parquet(part)
        surveyed = time.perf_counter()
        if "untouched" not in settings:
            self._pretrain(project, settings)
        trained = time.perf_counter()
        model = QAnchor.from_pretrained("qanchor-small" if "untouched" in settings else folder / "model")
        names = list(self.labels)
        embedding_NGO = model.embed(self.past, (), [self.base.scenarios[name].query for name in names])
        own = self._probe({name: embedding_NGO[:, g] for g, name in enumerate(names)})
        swapped = self._probe({name: embedding_NGO[:, (g + 1) % len(names)] for g, name in enumerate(names)})
        return {
            "own": own,
            "swapped": swapped,
            "recall@10": self._retrieval(model, folder),
            "seconds": {"useru": round(surveyed - start), "pretrain": round(trained - surveyed)},
        }

    def _pretrain(self, project: Project, settings: dict[str, Any]) -> None:
        """Train, from the end of the align phase where a lever before had the same."""
        checkpoints = project.out / "checkpoints"
        shutil.rmtree(checkpoints, ignore_errors=True)
        told = {key: value for key, value in settings.items() if key not in OPEN_ONLY}
        Checkpoints.load_best = LOAD_BEST
        aligned = self.run / "aligned" / hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        if not aligned.exists():
            align = {**settings, "training.pretrain.steps": 0, "model.prefix_attention": "causal"}
            Project(changed(self.base, align), project.stages)._pretrain("lever")
            shutil.rmtree(checkpoints / "lever" / "start")
            shutil.copytree(checkpoints, aligned)
            shutil.rmtree(checkpoints)
        shutil.copytree(aligned, checkpoints)
        Checkpoints.load_best = KEEP_LAST if "last" in settings else LOAD_BEST
        project._pretrain("lever")

    def _retrieval(self, model: QAnchor, folder: Path) -> float:
        """Share of validation users whose own summary of the future is among the 10 nearest to their embedding."""
        pairs = dataset.read(folder / "useru").filter(pl.col("topic") == "future")
        keys = self.past.keys().with_row_index("row").filter(pl.Series(self.validation))
        asked = pairs.join(keys, on=["user_id", "as_of"]).sort("row").head(1_000)
        if asked.is_empty():
            return float("nan")
        rows = asked["row"].to_numpy().astype(np.int64)
        user_NO = model.embed(self.past.take(rows), (), [asked["query"][0]])[:, 0]
        texts, place = np.unique(asked["answer"].to_numpy(), return_inverse=True)
        answers = model.towers.tokens([str(text) for text in texts], "right")
        with torch.inference_mode():
            answer_AO = model.towers.answer(answers, torch.arange(len(texts))[:, None])[:, 0].float().numpy()
        nearest = np.argsort(-(user_NO @ answer_AO.T), axis=1, kind="stable")[:, :10]
        return float((nearest == place[:, None]).any(1).mean())


def hash_half(user: str) -> int:
    return stable_hash(f"{user}|half") % 2


def averages(scores: dict[str, list[float]]) -> list[float]:
    mean: list[float] = np.mean(list(scores.values()), 0).tolist()
    return mean


def table(found: dict[str, Any], counts: dict[str, list[float]]) -> Iterator[tuple[str, ...]]:
    yield "counts", *(f"{value:.4f}" for value in averages(counts)), "", "", ""
    for name, result in found.items():
        own, swapped = averages(result["own"]), averages(result["swapped"])
        seconds = f"{result['seconds']['pretrain']}"
        yield (
            name,
            *(f"{value:.4f}" for value in own),
            f"{own[0] - swapped[0]:+.4f}",
            f"{result['recall@10']:.3f}",
            seconds,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", nargs="*", help="levers by name; left out, all")
    parser.add_argument("--limit", type=int, default=4_000, help="at most so many training and validation rows each")
    arguments = parser.parse_args()
    results = Path(__file__).parent / "results" / f"levers-{arguments.run.name}.json"
    kept = json.loads(results.read_text()) if results.exists() else {}
    bench = Bench(arguments.run, arguments.limit)
    kept["counts"] = bench.counts
    for lever in arguments.only or LEVERS:
        if lever not in kept.setdefault("levers", {}):
            kept["levers"][lever] = bench.measure(LEVERS[lever]) | {"settings": LEVERS[lever]}
            results.write_text(json.dumps(kept, indent=1) + "\n")
    shown = Table(
        "lever",
        "AUC",
        "KS",
        "own - swapped AUC",
        "recall@10",
        "pretrain s",
        title=f"validation users of {arguments.run.name}",
    )
    for row in table(kept["levers"], kept["counts"]):
        shown.add_row(*row)
    Console().print(shown)
