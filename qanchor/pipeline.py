"""The main job, stage by stage: logs in, scenario embeddings out, judged (the rooms of the house, top to bottom).

`Project` is one config and one run folder. Each verb brings up to date what it needs and then does its own stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from rich.console import Console

from qanchor import __version__, config, datasets, embeddings, storage
from qanchor.baselines.counts import Counts
from qanchor.config import Config
from qanchor.errors import ConfigError, DataError
from qanchor.evaluation import report
from qanchor.evaluation.judge import judge
from qanchor.evaluation.results import Results
from qanchor.evaluation.table import table
from qanchor.events import splits
from qanchor.events.cover import Covers, covers
from qanchor.events.ingest import ingest
from qanchor.events.labels import label
from qanchor.events.profiles import Profiles
from qanchor.events.store import EventStore
from qanchor.inference.engine import QAnchor
from qanchor.inference.makers import makers
from qanchor.inference.search import direction
from qanchor.model import persistence
from qanchor.model.prefixes import PrefixCache
from qanchor.model.prompts import SoftPrompt
from qanchor.model.vocabulary import WORDS, Vocabulary
from qanchor.stages import Stages, listed, listing
from qanchor.storage import Place
from qanchor.training import counted
from qanchor.training.counted import Counted
from qanchor.training.pairs import Pairs
from qanchor.training.pretrain import Corpus, Pretraining, Step
from qanchor.training.sample import Labelled
from qanchor.training.tune import TuneCheck, Tuning
from qanchor.useru import build, dataset, show
from qanchor.useru.cohorts import Interviewer
from qanchor.useru.statements import Framing
from qanchor.useru.synthesis.pool import diff, generate
from qanchor.useru.synthesis.synthesize import estimate

TRAINING_SPLITS = ("train", "validation")
KINDS = ("base", "tuned")
"""Of embeddings."""
SHIPPED = "qanchor-small"
"""The weights that ship with the package."""


class Project:
    """One config, one run folder: `store/`, `useru/`, `model/`, `embeddings/`, `results.json`, `report.html`."""

    def __init__(self, config: Config, stages: Stages) -> None:
        self.config, self.stages = config, stages
        self.out, self.console = stages.folder, stages.console
        self.storage: Place = storage.place(config.storage, config.root) if config.storage else self.out
        """Where `store/` and `embeddings/` lie: the run folder, or the place that the config names."""

    @property
    def vault(self) -> Path | None:
        """File of the wrapped data keys; None where all lies in the clear."""
        return self.out / "serving" / "vault.json" if self.config.encrypt else None

    @cached_property
    def covers(self) -> Covers:
        """What lies over embeddings, profiles and appended events. Raises ConfigError as `cover.covers`."""
        return covers(self.vault)

    @classmethod
    def open(cls, config_path: Path, out: Path | None, console: Console) -> Project:
        """The project of a YAML; its run folder is `runs/NAME` unless given. Raises ConfigError."""
        loaded = config.load(config_path)
        return cls(loaded, Stages(out or Path("runs") / loaded.name, console))

    # -- events -------------------------------------------------------------------------------------------------

    def ingest(self) -> None:
        """Event logs into day partitions."""
        files = [
            file for source in self.config.sources for file in storage.files(source.path, self.config.root).items()
        ]
        inputs = {
            "sources": [source.model_dump() for source in self.config.sources],
            "shards": self.config.shards,
            "files": listed(files),
            **({"storage": self.config.storage} if self.config.storage else {}),
        }
        self.stages.run("ingest", inputs, (), lambda _: self._ingest())

    def _ingest(self) -> None:
        with self.stages.progress("ingest", None) as advance:
            report = ingest(self.config, self.storage / "store", lambda stage, n: advance(n, stage))
        rejects = ", ".join(f"{n:,} {reason}" for reason, n in report.rejects.items()) or "none"
        self.console.print(f"  {report.rows:,} rows, {report.events:,} events published; refused: {rejects}")

    @cached_property
    def store(self) -> EventStore:
        return EventStore.open(self.config, self.storage / "store")

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

    def useru(self, budget: float | None = None) -> None:
        """UserU from the training and validation users; no test user is ever in it. `budget` is for the LLM."""
        self.ingest()
        settings, llm = self.config.useru, self.config.useru.llm
        inputs = {
            "useru": settings.model_dump(exclude={"llm"}),
            "llm": llm and llm.model_dump(include={"model", "temperature", "max_lines", "redact"}),
            "topics": listing([self.config.root / settings.topics] if settings.topics else []),
            "windows": self.config.windows.model_dump(),
            "users": self.config.users.model_dump(),
            "modalities": {name: m.model_dump() for name, m in self.config.modalities.items()},
            "seed": self.config.training.seed,
            "version": __version__,
        }
        self.stages.run("useru", inputs, ("ingest",), lambda _: self._useru(build.within(self.config, budget)))

    def _useru(self, settings: Config) -> None:
        rows = self.rows(*TRAINING_SPLITS)
        left_out = (self.requests["split"] == "train").to_numpy() & ~splits.part(
            self.past.user_ids, settings.useru.share
        )
        rows = rows[~left_out[rows]]
        past, future = self.past.take(rows), self.future.take(rows)
        card = build.build(settings, past, future, self.out / "useru", self.stages.progress)
        self.console.print(f"  {card['pairs']:,} pairs of {len(rows):,} (user, as_of)")

    def estimate_useru(self) -> None:
        """What the LLM would cost, on the screen; nothing is sent."""
        self.ingest()
        cost = estimate(self.config, self.past.take(self.rows(*TRAINING_SPLITS)), build.pool(self.config))
        self.console.print(
            f"{cost.users:,} users, {cost.requests:,} requests, {cost.prompt_tokens:,} + {cost.completion_tokens:,} "
            f"tokens, about {cost.cost:,.2f}"
        )

    def show_useru(self, user: str) -> None:
        """A user's profile and pairs side by side. Raises DataError for a user without pairs."""
        pairs = dataset.scan(self.out / "useru").filter(pl.col("user_id") == user).collect()
        rows = np.flatnonzero(self.past.user_ids == user)
        if pairs.is_empty():
            raise DataError(
                f"no pairs of user {user!r} in {self.out / 'useru'}: only training and validation users have"
            )
        for side_by_side in show.side_by_side(self.config, self.past.take(rows), pairs):
            self.console.print(side_by_side)

    def show_topics(self) -> None:
        """What D_uqa asks about in these logs."""
        self.ingest()
        interviewer = Interviewer(self.config, self.past, self.future, self.config.training.seed)
        self.console.print(show.topics(interviewer.subjects))

    def generate_topics(self, path: Path, agreed: Callable[[], bool]) -> None:
        """A domain's own topics by the LLM: the difference on the screen, and, if that is `agreed`, the file."""
        self.ingest()
        known = build.pool(self.config)
        generated = generate(self.config, self.past.take(self.rows("train")), known)
        for line in diff(known, generated):
            self.console.print(line, markup=False)
        if agreed():
            generated.save(path)
            self.console.print(f"wrote {path}: name it as `useru.topics` in the config")

    def pretrain(self) -> None:
        """The model, by contrast and next-token prediction on UserU."""
        self.useru()
        training = self.config.training
        inputs = {
            "model": self.config.model.model_dump(),
            "pretrain": training.pretrain.model_dump(),
            "seed": training.seed,
        }
        self.stages.run("pretrain", inputs, ("useru",), self._pretrain, by_all=True)

    def _pretrain(self, digest: str) -> None:
        ranks, training, folder = self.stages.ranks, self.config.training, self.out / "checkpoints" / digest
        columns = ("user_id", "as_of", "topic", "query", "answer", "cohort")
        frame = dataset.scan(self.out / "useru").select(columns)
        # every rank, and every resumed run, starts from the same model
        if ranks.first and not (folder / "start" / "config.json").exists():
            said = pl.concat([frame.select(text=column).unique() for column in ("query", "answer")]).collect()
            torch.manual_seed(training.seed)
            persistence.save(persistence.begin(self.config, sorted(said["text"])), folder / "start", self._card())
        ranks.wait()
        towers = persistence.load(folder / "start", self.out / "vectors").train()
        described = self.store.texts().described
        with self.stages.progress("texts", len(described)) as advance:
            texts = towers.text_encoder.index(described, lambda n: advance(n, ""))

        def corpus(split: str) -> Corpus:
            keys = self.requests[self.rows(split)]
            profiles = self.store.profiles(keys.filter(ranks.own(keys["user_id"])))
            return Corpus.of(towers, profiles, Pairs(frame, keys, profiles), persistence.kept_events(towers), texts)

        run = Pretraining(
            towers, corpus("train"), corpus("validation"), training.pretrain, training.seed, folder, ranks
        )
        check = ""
        with self.stages.progress("pretrain", sum(run.phases.values())) as advance:
            for done in run.run():
                if isinstance(done, Step):
                    advance(1, f"{done.phase} loss {done.loss:.3f} kept {done.kept:.2f} {check}")
                else:
                    check = done.line
                    for warning in done.warnings:
                        self.console.print(f"[yellow]  pretrain, step {done.step} of {done.phase}: {warning}[/]")
        if ranks.first:
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

    @cached_property
    def labelled(self) -> dict[str, Labelled]:
        """Each scenario's labelled users, by their numbers among the rows of `TRAINING_SPLITS`."""
        rows, found = self.rows(*TRAINING_SPLITS), {}
        place = [np.flatnonzero(np.isin(rows, self.rows(split))) for split in TRAINING_SPLITS]
        for name, y in self.labels.items():
            own = [part[np.isfinite(y[rows[part]])] for part in place]
            found[name] = Labelled(*(x for part in own for x in (part, y[rows[part]].astype(np.int64))))
        return found

    @property
    def _label_inputs(self) -> dict[str, Any]:
        """What labels are made from, beside events."""
        rules = {name: s.model_dump(include={"label", "labels"}) for name, s in self.config.scenarios.items()}
        files = [storage.place(s.labels, self.config.root) for s in self.config.scenarios.values() if s.labels]
        return {"scenarios": rules, "labels": listing(files)}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words that users' events are counted by."""
        return Vocabulary.of(self.past.take(self.rows("train")))

    def count(self) -> None:
        """What counting alone says of each scenario: the part of readouts that no model changes."""
        self.ingest()
        inputs = self._label_inputs | {
            "windows": self.config.windows.model_dump(),
            "users": self.config.users.model_dump(),
            "modalities": {name: m.model_dump() for name, m in self.config.modalities.items()},
            "words": WORDS,
            "version": __version__,
        }
        self.stages.run("count", inputs, ("ingest",), self._count)

    def _count(self, digest: str) -> None:
        past, folder = self.past.take(self.rows(*TRAINING_SPLITS)), self.out / "counted" / digest
        able = {name: part.sample(past.as_of) for name, part in self.labelled.items() if not part.lacking}
        with self.stages.progress("count", len(able)) as advance:
            for name in counted.fit_all(past, self.vocabulary, able, folder, torch.get_num_threads()):
                advance(1, name)

    def tune(self) -> None:
        """A soft prompt for every scenario, on the labels of training users, kept by validation users."""
        self.pretrain()
        counting = ("count",) if self.config.model.user_token else ()
        if counting:
            self.count()
        inputs = {
            "tune": self.config.training.tune.model_dump(exclude={"cache_gb"}),
            "queries": {name: scenario.query for name, scenario in self.config.scenarios.items()},
            **self._label_inputs,
        }
        self.stages.run("tune", inputs, ("pretrain", *counting), self._tune)

    def _tune(self, digest: str) -> None:
        if not self.config.scenarios:
            raise ConfigError("the config names no scenario: add `scenarios:` with a query and a label rule each")
        towers = persistence.load(self.out / "model", self.out / "vectors")
        persistence.teach(towers, self.vocabulary)
        fingerprint, settings = persistence.fingerprint(towers), self.config.training.tune
        rows, folder = self.rows(*TRAINING_SPLITS), self.out / "checkpoints" / digest
        with self.stages.progress("prefixes", len(rows)) as advance:
            parts = QAnchor(towers).prefixes(self.past.take(rows), lambda n: advance(n, ""))
            cache = PrefixCache(parts, settings.cache_gb, folder)
        labelled, prompts = dict(self.labelled), {}
        queries = {name: s.query for name, s in self.config.scenarios.items()}
        for name, part in list(labelled.items()):
            if part.lacking:
                self.console.print(f"  {name} is not tuned: {part.lacking}")
                nothing = towers.prompt.new_zeros(2, towers.dim)
                prompts[name] = SoftPrompt(name, queries[name], towers.prompt, nothing, fingerprint)
                del labelled[name]
        if labelled:
            by_count: dict[str, Counted] = {}
            if self.config.model.user_token:
                fitted = self.out / "counted" / self.stages.digests["count"]
                by_count = {name: Counted.load(fitted / f"{name}.safetensors") for name in labelled}
            as_of_N, seed = self.past.as_of[rows], self.config.training.seed
            tuning = Tuning(towers, cache, queries, labelled, as_of_N, by_count, settings, seed, folder)
            check = ""
            with self.stages.progress("tune", settings.steps) as advance:
                for done in tuning.run():
                    if isinstance(done, TuneCheck):
                        loss, auc, kept = (np.mean(list(x.values())) for x in (done.loss, done.auc, done.kept))
                        check = f"validation loss {loss:.3f} AUC {auc:.4f} kept {kept:.4f}"
                    else:
                        advance(1, f"loss {done.loss:.3f} {check}")
            prompts |= tuning.prompts(fingerprint)
        persistence.save_settings(towers, self.out / "model")
        for name, prompt in prompts.items():
            prompt.save(self.out / "model" / "prompts" / f"{name}.safetensors")

    # -- embeddings ---------------------------------------------------------------------------------------------

    def embed_requests(self, kinds: Sequence[str] = KINDS) -> None:
        """Embeddings of every request for every scenario: `base` by its query alone, `tuned` with its soft prompt."""
        if "tuned" in kinds:
            self.tune()
        else:
            self.pretrain()
        inputs = {"encrypt": True} if self.config.encrypt else {}
        some = {} if set(kinds) == set(KINDS) else {"kinds": sorted(kinds)}
        after = ("tune" if "tuned" in kinds else "pretrain",)
        self.stages.run("embed", inputs | some, after, lambda _: self._embed(kinds))

    def _embed(self, kinds: Sequence[str]) -> None:
        model = QAnchor.from_pretrained(self.out / "model", self.out / "vectors")
        names, fingerprint = list(self.config.scenarios), persistence.fingerprint(model.towers)
        tuned = names if "tuned" in kinds else []
        queries = [self.config.scenarios[name].query for name in names] if "base" in kinds else []
        with self.stages.progress("embed", len(self.past)) as advance:
            all_NGO = model.embed(self.past, tuned, queries, progress=lambda n: advance(n, ""))
        of = {"tuned": all_NGO[:, : len(tuned)], "base": all_NGO[:, len(tuned) :]}
        made_by = {"tuned": makers(model, fingerprint), "base": dict.fromkeys(names, fingerprint)}
        for kind in kinds:
            path = self.storage / "embeddings" / f"{kind}.parquet"
            embeddings.write(path, self.requests, names, of[kind], self.covers, made_by[kind])

    # -- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self) -> None:
        """Linear probes on every kind of features: `results.json`."""
        self.embed_requests()
        said = {name: s.statements.model_dump() for name, s in self.config.scenarios.items() if s.statements}
        truth = listing([self.config.root / "truth" / "oracle.parquet"])
        inputs = {"truth": truth, **({"statements": said} if said else {})}
        self.stages.run("evaluate", inputs, ("embed",), lambda _: self._evaluate())

    def _evaluate(self) -> None:
        split = self.requests["split"].to_numpy().astype(str)
        users = self.requests["user_id"].to_numpy().astype(str)
        kinds = self._embeddings()
        hand_made = Counts().fit(self.past.take(self.rows("train"))).embed(self.past)
        oracle, zero_shot = self._oracle(), self.zero_shot()
        columns = len(kinds) + 2 + (oracle is not None) + (zero_shot is not None)
        with self.stages.progress("evaluate", columns * len(self.labels)) as advance:
            results = judge(
                self.config, kinds, hand_made, self.labels, oracle, split, users, zero_shot, lambda n: advance(n, "")
            )
        results.save(self.out / "results.json")

    def zero_shot(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """[N] of each scenario: how far a request's `base` embedding lies along its statements, no label used.

        None unless all scenarios have statements.
        """
        said = {name: scenario.statements for name, scenario in self.config.scenarios.items()}
        if lacking := [name for name, statements in said.items() if statements is None]:
            if len(lacking) < len(said):
                self.console.print(f"  no column zero-shot: there are no `statements` of {', '.join(lacking)}")
            return None
        model = QAnchor.from_pretrained(self.out / "model", self.out / "vectors")
        base = embeddings.read_all(self.storage / "embeddings" / "base.parquet", self.covers)
        framing = Framing.of(self.config)
        return {
            name: base[name] @ direction(model, framing, statements.positive, statements.negative)
            for name, statements in said.items()
            if statements
        }

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
            kind: embeddings.read_all(self.storage / "embeddings" / f"{kind}.parquet", self.covers) for kind in KINDS
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


def prepared(
    data: str,
    data_dir: Path | None,
    out: Path | None,
    console: Console,
    world: dict[str, Any],
    from_scratch: bool = False,
) -> Project:
    """The project of a data set that the package knows, raw logs written; `world` is for the simulator.

    The wallet starts from the weights that ship, which know its kind, unless `from_scratch`.

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
    settings = config.load(raw / "qanchor.yaml")
    if data == "wallet" and not from_scratch:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"start": SHIPPED})})
    return Project(settings, stages)


def demo(
    data: str,
    data_dir: Path | None,
    out: Path | None,
    console: Console,
    command: str,
    world: dict[str, Any],
    from_scratch: bool = False,
) -> Project:
    """The whole job on a data set that the package knows, as `prepared`, to the report."""
    project = prepared(data, data_dir, out, console, world, from_scratch)
    project.report(command)
    return project
