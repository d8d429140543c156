"""The main job, stage by stage: logs in, scenario embeddings out, judged (the rooms of the house, top to bottom).

`Project` is one config and one run folder. Each verb brings up to date what it needs and then does its own stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from qanchor import __version__, config, datasets
from qanchor.baselines.counts import Counts
from qanchor.config import Config
from qanchor.errors import ConfigError
from qanchor.evaluation import report
from qanchor.evaluation.judge import judge
from qanchor.evaluation.results import Results
from qanchor.evaluation.table import table
from qanchor.events import splits
from qanchor.events.ingest import ingest
from qanchor.events.labels import label
from qanchor.events.profiles import Profiles
from qanchor.events.store import EventStore
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.prefixes import PrefixCache
from qanchor.model.prompts import SoftPrompt
from qanchor.stages import Stages, listing
from qanchor.training.pairs import Pairs
from qanchor.training.pretrain import Corpus, Pretraining, Step, Validation
from qanchor.training.tune import Labelled, TuneCheck, Tuning
from qanchor.useru import dataset as useru

TRAINING_SPLITS = ("train", "validation")


class Project:
    """One config, one run folder: `store/`, `useru/`, `model/`, `embeddings/`, `results.json`, `report.html`."""

    def __init__(self, config: Config, stages: Stages) -> None:
        self.config, self.stages = config, stages
        self.out, self.console = stages.folder, stages.console

    @classmethod
    def open(cls, config_path: Path, out: Path | None, console: Console) -> Project:
        """The project of a YAML; its run folder is `runs/NAME` unless given. Raises ConfigError."""
        loaded = config.load(config_path)
        return cls(loaded, Stages(out or Path("runs") / loaded.name, console))

    # -- events -------------------------------------------------------------------------------------------------

    def ingest(self) -> None:
        """Event logs into day partitions."""
        # joined, since a source may also be named by an absolute path
        patterns = [str(self.config.root / source.path) for source in self.config.sources]
        files = [Path(path) for pattern in patterns for path in glob(pattern, recursive=True)]
        inputs = {
            "sources": [source.model_dump() for source in self.config.sources],
            "shards": self.config.shards,
            "files": listing(files),
        }
        self.stages.run("ingest", inputs, (), lambda _: self._ingest())

    def _ingest(self) -> None:
        with self.stages.progress("ingest", None) as advance:
            report = ingest(self.config, self.out / "store", lambda stage, n: advance(n, stage))
        rejects = ", ".join(f"{n:,} {reason}" for reason, n in report.rejects.items()) or "none"
        self.console.print(f"  {report.rows:,} rows, {report.events:,} events published; refused: {rejects}")

    @cached_property
    def store(self) -> EventStore:
        return EventStore.open(self.config, self.out / "store")

    @cached_property
    def requests(self) -> pl.DataFrame:
        """user_id, as_of, split: whom training and evaluation look at, and when."""
        return splits.requests(self.config, self.store)

    @cached_property
    def past(self) -> Profiles:
        return self.store.profiles(self.requests)

    @cached_property
    def future(self) -> Profiles:
        return self.store.futures(self.requests, self.config.windows.predict_days)

    def rows(self, *names: str) -> npt.NDArray[np.int64]:
        """Rows of the requests that belong to these splits."""
        return np.flatnonzero(self.requests["split"].is_in(list(names)).to_numpy())

    @cached_property
    def labels(self) -> dict[str, npt.NDArray[np.float32]]:
        """[N] of each scenario: 0, 1, or NaN where the question is not asked."""
        return {name: label(self.config, name, self.past, self.future) for name in self.config.scenarios}

    # -- training -----------------------------------------------------------------------------------------------

    def useru(self) -> None:
        """UserU from the training and validation users; no test user is ever in it."""
        self.ingest()
        inputs = {
            "useru": self.config.useru.model_dump(),
            "windows": self.config.windows.model_dump(),
            "users": self.config.users.model_dump(),
            "modalities": {name: m.model_dump() for name, m in self.config.modalities.items()},
            "seed": self.config.training.seed,
            "version": __version__,
        }
        self.stages.run("useru", inputs, ("ingest",), lambda _: self._useru())

    def _useru(self) -> None:
        rows = self.rows(*TRAINING_SPLITS)
        past, future = self.past.take(rows), self.future.take(rows)
        with self.stages.progress("useru", len(rows)) as advance:
            frame = useru.build(self.config, past, future, self.config.training.seed, lambda n: advance(n, ""))
        useru.write(frame, self.out / "useru")
        self.console.print(f"  {len(frame):,} pairs of {len(rows):,} (user, as_of)")

    def pretrain(self) -> None:
        """The model, by contrast and next-token prediction on UserU."""
        self.useru()
        training = self.config.training
        inputs = {
            "model": self.config.model.model_dump(),
            "pretrain": training.pretrain.model_dump(),
            "seed": training.seed,
        }
        self.stages.run("pretrain", inputs, ("useru",), self._pretrain)

    def _pretrain(self, digest: str) -> None:
        frame, settings = useru.read(self.out / "useru"), self.config.training.pretrain
        torch.manual_seed(self.config.training.seed)
        towers = persistence.build(self.config, [*frame["query"].unique(), *frame["answer"].unique()])
        texts = towers.text_encoder.index(self.past.texts.text)

        def corpus(split: str) -> Corpus:
            profiles = self.past.take(self.rows(split))
            return Corpus.of(towers, profiles, Pairs(frame, profiles), persistence.kept_events(towers), texts)

        folder = self.out / "checkpoints" / digest
        run = Pretraining(towers, corpus("train"), corpus("validation"), settings, self.config.training.seed, folder)
        check = ""
        with self.stages.progress("pretrain", sum(run.phases.values())) as advance:
            for done in run.run():
                if isinstance(done, Step):
                    advance(1, f"{done.phase} loss {done.loss:.3f} kept {done.kept:.2f} {check}")
                elif isinstance(done, Validation):
                    check = f"validation {done.loss:.3f} best {done.best:.3f}"
        QAnchor(towers).save_pretrained(self.out / "model", self._card())

    def _card(self) -> str:
        sizes = self.requests.group_by("split").len().sort("split")
        splits_text = ", ".join(f"{n:,} {split}" for split, n in sizes.iter_rows())
        return (
            f"---\nlibrary_name: qanchor\n---\n# qanchor model of {self.config.name}\n\n"
            f"Backbone {self.config.model.backbone}, modalities {', '.join(self.config.modality_names)}, "
            f"{self.config.model.dim}-dimensional embeddings. Pretrained on UserU of {splits_text} (user, as_of) "
            f"pairs, of which test users were not used. qanchor {__version__}.\n\n"
            f"Use: `QAnchor.from_pretrained(folder).embed(profiles, queries=[...])`.\n"
        )

    def tune(self) -> None:
        """A soft prompt for every scenario, on the labels of training users, kept by validation users."""
        self.pretrain()
        inputs = {
            "tune": self.config.training.tune.model_dump(),
            "scenarios": {name: s.model_dump() for name, s in self.config.scenarios.items()},
            "labels": listing([self.config.root / s.labels for s in self.config.scenarios.values() if s.labels]),
        }
        self.stages.run("tune", inputs, ("pretrain",), self._tune)

    def _tune(self, digest: str) -> None:
        if not self.config.scenarios:
            raise ConfigError("the config names no scenario: add `scenarios:` with a query and a label rule each")
        towers = persistence.load(self.out / "model")
        rows = self.rows(*TRAINING_SPLITS)
        with self.stages.progress("prefixes", len(rows)) as advance:
            cache = PrefixCache(QAnchor(towers).prefixes(self.past.take(rows), lambda n: advance(n, "")))
        place = {split: np.flatnonzero(np.isin(rows, self.rows(split))) for split in TRAINING_SPLITS}
        labelled = {}
        for name, y in self.labels.items():
            own = [(part[np.isfinite(y[rows[part]])]) for part in place.values()]
            labelled[name] = Labelled(*(x for part in own for x in (part, y[rows[part]].astype(np.int64))))
        queries = {name: s.query for name, s in self.config.scenarios.items()}
        fingerprint = persistence.fingerprint(towers)
        prompts = self.out / "model" / "prompts"
        for name, part in labelled.items():
            if part.lacking:
                self.console.print(f"  {name} is not tuned: {part.lacking}")
                shared = SoftPrompt(
                    name, queries[name], towers.prompt, towers.prompt.new_zeros(2, towers.dim), fingerprint
                )
                shared.save(prompts / f"{name}.safetensors")
        labelled = {name: part for name, part in labelled.items() if not part.lacking}
        if not labelled:
            return
        training, folder = self.config.training, self.out / "checkpoints" / digest
        tuning = Tuning(towers, cache, queries, labelled, training.tune, training.seed, folder)
        check = ""
        with self.stages.progress("tune", self.config.training.tune.steps) as advance:
            for done in tuning.run():
                if isinstance(done, TuneCheck):
                    check = f"validation AUC {np.mean(list(done.best.values())):.4f}"
                else:
                    advance(1, f"loss {done.loss:.3f} {check}")
        for g, name in enumerate(labelled):
            prompt = SoftPrompt(
                name,
                queries[name],
                tuning.learned.best_prompt_GKD[g],
                tuning.learned.best_prototype_GCO[g],
                fingerprint,
            )
            prompt.save(prompts / f"{name}.safetensors")

    # -- embeddings ---------------------------------------------------------------------------------------------

    def embed(self) -> None:
        """Embeddings of every request for every scenario: `base` by its query alone, `tuned` with its soft prompt."""
        self.tune()
        self.stages.run("embed", {}, ("tune",), lambda _: self._embed())

    def _embed(self) -> None:
        model = QAnchor.from_pretrained(self.out / "model")
        names = list(self.config.scenarios)
        queries = [self.config.scenarios[name].query for name in names]
        with self.stages.progress("embed", len(self.past)) as advance:
            both = model.embed(self.past, names, queries, progress=lambda n: advance(n, ""))
        for kind, part in (("tuned", both[:, : len(names)]), ("base", both[:, len(names) :])):
            write_embeddings(self.out / "embeddings" / f"{kind}.parquet", self.requests, names, part)

    # -- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self) -> None:
        """Linear probes on every kind of features: `results.json`."""
        self.embed()
        inputs = {"truth": listing([self.config.root / "truth" / "oracle.parquet"])}
        self.stages.run("evaluate", inputs, ("embed",), lambda _: self._evaluate())

    def _evaluate(self) -> None:
        split = self.requests["split"].to_numpy().astype(str)
        users = self.requests["user_id"].to_numpy().astype(str)
        embeddings = self._embeddings()
        hand_made = Counts().fit(self.past.take(self.rows("train"))).transform(self.past)
        oracle = self._oracle()
        columns = len(embeddings) + 2 + (oracle is not None)
        with self.stages.progress("evaluate", columns * len(self.labels)) as advance:
            results = judge(
                self.config, embeddings, hand_made, self.labels, oracle, split, users, lambda n: advance(n, "")
            )
        results.save(self.out / "results.json")

    def report(self, command: str) -> None:
        """`report.html`, the stages' seconds into `results.json`, and the table on the screen."""
        self.evaluate()
        self.stages.run("report", {"command": command}, ("evaluate",), lambda _: self._report(command))
        self.console.print(table(Results.load(self.out / "results.json")))
        self.console.print(f"[bold]{self.out / 'report.html'}[/] has the pictures, results.json the numbers")

    def _report(self, command: str) -> None:
        results = replace(Results.load(self.out / "results.json"), seconds=self.stages.seconds, command=command)
        results.save(self.out / "results.json")
        split = self.requests["split"].to_numpy().astype(str)
        with self.stages.progress("pictures", len(self.labels)) as advance:
            report.write(
                self.out / "report.html", results, self._embeddings(), self.labels, split, lambda n: advance(n, "")
            )

    def _embeddings(self) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
        """kind -> scenario -> [N, O], as `embed` wrote them."""
        return {
            kind: {name: read_embeddings(self.out / "embeddings" / f"{kind}.parquet", name) for name in self.labels}
            for kind in ("base", "tuned")
        }

    def _oracle(self) -> dict[str, npt.NDArray[np.float64]] | None:
        """[N] true probability of each scenario, where the data is simulated and knows it."""
        path = self.config.root / "truth" / "oracle.parquet"
        if not path.exists():
            return None
        truth = pl.read_parquet(path)
        return {
            name: self.requests.join(
                truth.filter(pl.col("scenario") == name), on=["user_id", "as_of"], how="left", maintain_order="left"
            )["probability"].to_numpy()
            for name in self.config.scenarios
        }


def demo(
    data: str, data_dir: Path | None, out: Path | None, console: Console, command: str, world: dict[str, Any]
) -> Project:
    """The whole job on a data set that the package knows, raw logs included; `world` is for the simulator.

    Raises:
        DataError: no such data set, or its files are missing.
    """
    out = out or Path("runs") / ("demo" if data == "wallet" else data)
    raw = out / "raw"
    stages = Stages(out, console)
    inputs = {
        "data": data,
        "world": world,
        "version": __version__,
        "files": listing(list(data_dir.iterdir())) if data_dir else [],
    }

    def prepare(_: str) -> None:
        datasets.prepare(data, raw, data_dir, **world)

    stages.run("prepare", inputs, (), prepare)
    project = Project(config.load(raw / "qanchor.yaml"), stages)
    project.report(command)
    return project


def write_embeddings(
    path: Path, keys: pl.DataFrame, scenarios: Sequence[str], embedding_NGO: npt.NDArray[np.float32]
) -> None:
    """`user_id, as_of, scenario, embedding` as one Parquet file, from one flat buffer, replaced atomically."""
    users, count, width = embedding_NGO.shape
    flat = pa.array(np.ascontiguousarray(embedding_NGO.transpose(1, 0, 2)).reshape(-1))
    table = pa.table(
        {
            "user_id": pa.concat_arrays([keys["user_id"].to_arrow().cast(pa.string())] * count),
            "as_of": pa.concat_arrays([keys["as_of"].to_arrow()] * count),
            "scenario": pa.DictionaryArray.from_arrays(
                np.repeat(np.arange(count, dtype=np.int32), users), list(scenarios)
            ),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, width),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    pq.write_table(table, fresh, compression="zstd")
    fresh.replace(path)


def read_embeddings(path: Path, scenario: str) -> npt.NDArray[np.float32]:
    """[N, O] of one scenario, rows as they were written."""
    table = pq.read_table(path, filters=[("scenario", "=", scenario)], columns=["embedding"])
    column = table["embedding"].combine_chunks()
    flat: npt.NDArray[np.float32] = column.flatten().to_numpy().reshape(len(column), -1)
    return flat
