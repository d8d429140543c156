"""Who is nearest to a phrase: `qanchor search`, over the embeddings that `embed` and `refresh` wrote.

Shapes: O dimensions.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from rich.table import Table

from qanchor.daily import Daily
from qanchor.errors import ConfigError, DataError, ModelError
from qanchor.inference import lance
from qanchor.inference.engine import QAnchor
from qanchor.inference.search import BLOCK, Floats, Near, direction, nearest
from qanchor.inference.snapshot import Snapshot
from qanchor.model import persistence
from qanchor.useru.statements import Framing


@dataclass(frozen=True)
class Audience:
    as_of: str
    scenario: str
    """Whose embeddings were searched."""
    users: list[Near]
    """Best first."""


def search(
    daily: Daily,
    sentence: str,
    k: int,
    as_of: dt.date | None = None,
    scenario: str | None = None,
    unlike: str | None = None,
    approximate: bool = False,
) -> Audience:
    """The k users of whom `sentence` is truest, and `unlike` is not, as one scenario's embeddings have it.

    Args:
        as_of: of the embeddings; left out, the newest that there are.
        scenario: its name, or that of a question given to `embed`; left out, the one whose statement lies nearest.
        approximate: by the Lance data set of `embed --sink lance` instead of exactly.

    Raises:
        ConfigError: no scenario is named, and none of the config has statements to choose by; Lance is not installed.
        DataError: there are no such embeddings, or not of all shards.
        ModelError: there is no model, or the embeddings are another's.
    """
    project = daily.project
    model = QAnchor.from_pretrained(project.out / "model", project.out / "vectors")
    vector_O = direction(model, Framing.of(project.config), sentence, unlike)
    name = scenario or _scenario(daily, model, vector_O)
    snapshot = _snapshot(daily, name, as_of)
    _expect(daily, snapshot, name, persistence.fingerprint(model.towers))
    along_RO = model.written_along(name)
    if approximate:
        near = lance.search(snapshot, name, project.config.shards, vector_O, k, along_RO)
    else:
        near = nearest(_blocks(snapshot, name, project.config.shards), vector_O, k, along_RO)
    return Audience(str(snapshot.as_of), name, near)


def write(found: Audience, path: Path) -> None:
    """`user_id, score` as Parquet or CSV, by the file's ending. Raises ConfigError for any other."""
    frame = pl.DataFrame(found.users, schema={"user_id": pl.String, "score": pl.Float64}, orient="row")
    if path.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"got --out {path}, expected a name that ends in .parquet or .csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)


def table(found: Audience) -> Table:
    grid = Table("user", "score", box=None, title=f"{found.scenario}, as of {found.as_of}", title_justify="left")
    for near in found.users:
        grid.add_row(near.user_id, f"{near.score:.4f}")
    return grid


def _scenario(daily: Daily, model: QAnchor, vector_O: Floats) -> str:
    """The one whose own direction is most like this one."""
    config = daily.project.config
    said = {name: s.statements for name, s in config.scenarios.items() if s.statements}
    if not said:
        raise ConfigError("name one by `--scenario NAME`: the config has no `statements` to choose a scenario by")
    framing = Framing.of(config)
    own = {name: direction(model, framing, s.positive, s.negative) for name, s in said.items()}
    return max(own, key=lambda name: float(own[name] @ vector_O / np.linalg.norm(own[name])))


def _snapshot(daily: Daily, scenario: str, as_of: dt.date | None) -> Snapshot:
    """Of a day, or of the newest that has a file of the scenario."""
    folders = daily.snapshots.glob("as_of=*")
    days = sorted(dt.date.fromisoformat(folder.name.removeprefix("as_of=")) for folder in folders)
    having = [day for day in days if daily.snapshot(day).path(scenario, 0).exists()]
    if as_of in having or (as_of is None and having):
        return daily.snapshot(as_of or having[-1])
    of_day, there_are = f" as of {as_of}" if as_of else "", ", ".join(map(str, having)) or "none"
    raise DataError(
        f"no embeddings of {scenario!r}{of_day} in {daily.snapshots} (days with some: {there_are}): write them with "
        "`qanchor embed`, for a question of your own by `--query NAME=QUESTION`"
    )


def _expect(daily: Daily, snapshot: Snapshot, scenario: str, fingerprint: str) -> None:
    """That all shards are there, by this model: another's space is another."""
    for shard in range(daily.project.config.shards):
        made = snapshot.made(scenario, shard)
        if made is None:
            raise DataError(f"{snapshot.path(scenario, shard)} is missing: run the same `qanchor embed` again")
        if made.model != fingerprint:
            raise ModelError(
                f"{snapshot.path(scenario, shard)} is by model {made.model}, got {fingerprint}: embed that day again"
            )


def _blocks(snapshot: Snapshot, scenario: str, shards: int) -> Iterator[tuple[pa.Array, Floats]]:
    for shard in range(shards):
        yield from snapshot.blocks(scenario, shard, BLOCK)
