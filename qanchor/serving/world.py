"""What the service answers from: a model, a refresh, scenarios; exchanged as a whole when something new is there.

A refresh replaces files while the service runs. It is taken up once it is whole: every scenario of the config, every
shard, by the model that lies beside it. Until then the old one is answered from, the old model included.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qanchor import storage
from qanchor.daily import Daily
from qanchor.errors import ConfigError, ModelError
from qanchor.events import atomic
from qanchor.events.forgotten import Forgotten
from qanchor.events.profile_store import ProfileStore, State, shard_path
from qanchor.events.profiles import DAY
from qanchor.events.store import EventStore
from qanchor.inference.engine import QAnchor
from qanchor.inference.makers import makers
from qanchor.model import persistence
from qanchor.serving.probes import Probe, load_probes
from qanchor.serving.reader import Reader, Suffix
from qanchor.serving.shelf import EMPTY, Shelf, stamps_of
from qanchor.storage import Place
from qanchor.useru.statements import Framing

Stamp = tuple[object, ...]


@dataclass(frozen=True)
class World:
    """Never changed; the model's parts are for the model's thread only."""

    reader: Reader
    fingerprint: str
    shelf: Shelf
    kept: ProfileStore
    probes: dict[str, Probe]
    forgotten: Forgotten
    lookback: npt.NDArray[np.int64]
    """[M] seconds."""
    stamp: Stamp
    model_stamp: Stamp
    loaded: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))


def stamp(daily: Daily) -> Stamp:
    """Changes when there may be something new: model, prompts, probes, refreshed profiles, forgotten users."""
    root = daily.project.storage / "store"
    watched = [root / "forgotten.json", root / "texts.parquet", *sorted((daily.project.out / "probes").glob("*"))]
    shards = range(daily.project.config.shards)
    profiles: Stamp = tuple(_stat(shard_path(daily.kept, shard)) for shard in shards)
    if isinstance(daily.kept, Path):  # what a reader keeps from the file itself stands in its log
        profiles += tuple((shard, state.as_of, *state.files.items()) for shard, state in refreshed(daily).items())
    return model_stamp(daily.project.out / "model"), tuple((str(path), *_stat(path)) for path in watched), profiles


def model_stamp(folder: Path) -> Stamp:
    files = [*folder.glob("*"), *folder.glob("prompts/*")]
    return tuple((str(path), *_stat(path)) for path in sorted(files) if path.is_file())


def refreshed(daily: Daily) -> dict[int, State]:
    """Where each shard's last refresh left it."""
    profiles = ProfileStore(daily.kept, daily.project.config.shards, daily.project.config.modality_names, daily.covers)
    try:
        return profiles.states()
    finally:
        profiles.close()


def load(daily: Daily, before: World | None, warm_bytes: int) -> World:
    """The world as it is on disk; what has not changed is taken over from `before`, and so is a refresh that is whole
    while the next one is not.

    Raises:
        QAnchorError: there is no model, no store, or they do not fit each other.
    """
    project, seen = daily.project, stamp(daily)
    folder, config = project.out / "model", project.config
    own = model_stamp(folder)
    if before and before.model_stamp == own:
        model, fingerprint = before.reader.model, before.fingerprint
    else:
        model = QAnchor.from_pretrained(folder, project.out / "vectors")
        fingerprint = persistence.fingerprint(model.towers)
        if model.towers.modalities != config.modality_names:
            model.towers.call(config.modality_names)
    shelf = _shelf(daily, fingerprint, before)
    if before and before.shelf.as_of and not shelf.as_of:
        raise ModelError("the new model has not refreshed yet: run `qanchor refresh`; the old one goes on until then")
    store = EventStore.open(config, project.storage / "store")
    texts = store.texts()
    if before and model is before.reader.model and np.array_equal(texts.ids, before.reader.texts.ids):
        reader = before.reader
    else:
        reader = Reader(model, texts, warm_bytes, Framing.of(config))
    lookback = np.array([config.lookback_days(name) * DAY for name in config.modality_names], np.int64)
    return World(
        reader,
        fingerprint,
        shelf,
        ProfileStore(daily.kept, config.shards, config.modality_names, daily.covers),
        load_probes(project.out / "probes", makers(model, fingerprint)),
        Forgotten(project.storage / "store"),
        lookback,
        seen,
        own,
    )


def _shelf(daily: Daily, fingerprint: str, before: World | None) -> Shelf:
    """The newest refresh that is whole and by this model."""
    config = daily.project.config
    names = list(config.scenarios)
    days = sorted({state.as_of for state in refreshed(daily).values()}, reverse=True)
    if before and before.fingerprint == fingerprint and before.shelf.as_of:
        days = sorted({*days, before.shelf.as_of}, reverse=True)
    for day in days:
        snapshot = daily.snapshot(day)
        made = [snapshot.made(name, shard) for name in names for shard in range(config.shards)]
        if not made or any(one is None or one.model != fingerprint for one in made):
            continue
        if before and before.shelf.stamps == stamps_of(snapshot, names, config.shards):
            return before.shelf
        return Shelf.read(snapshot, names, config.shards, daily.project.out / "serving")
    return EMPTY


def _stat(path: Place) -> tuple[int | str, ...]:
    try:
        inode = path.stat().st_ino if isinstance(path, Path) else 0
        return inode, *storage.stamp(path).values()
    except FileNotFoundError:
        return ()


class Scenarios:
    """The config's scenarios, and the questions that were registered while serving: `serving/scenarios.json`."""

    def __init__(self, path: Path, config: Mapping[str, str]) -> None:
        self._path, self._config = path, dict(config)
        self._registered: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @property
    def registered(self) -> Mapping[str, str]:
        return self._registered

    def queries(self) -> dict[str, str]:
        return {**self._registered, **self._config}

    def register(self, name: str, query: str) -> bool:
        """Whether it is new. Raises ConfigError when the name has another query already."""
        known = self.queries().get(name)
        if known is not None and known != query:
            raise ConfigError(f"scenario {name!r} asks {known!r} already: choose another name")
        if known is None:
            added = {**self._registered, name: query}
            atomic.write_json(self._path, added)
            self._registered = added
        return known is None

    def suffix(self, name: str, model: QAnchor) -> Suffix:
        """A scenario with a soft prompt goes by it, any other by its question alone. Raises KeyError."""
        if name in self._config and name in model.prompts:
            return Suffix(model.prompts[name].query, name)
        return Suffix(self.queries()[name])
