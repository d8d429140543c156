"""Data sets that the package knows: the simulator, and adapters of public logs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from qanchor.errors import DataError

DATASETS = ("wallet", "travel", "pcard", "retail", "oulad")
"""The first is simulated and needs no files; each of the others reads its publisher's."""


def prepare(name: str, raw: Path, data_dir: Path | None = None, **world: Any) -> Path:
    """Write the raw logs and `qanchor.yaml` of a data set under `raw`; returns the YAML's path.

    `world` is for the simulator: users, seed, language (see `wallet.prepare`).

    Raises:
        DataError: no such data set, no `data_dir` where one is needed, or a file is missing in it or unreadable.
    """
    if name not in DATASETS:
        raise DataError(f"no data set {name!r}: known are {', '.join(DATASETS)}")
    if name != "wallet" and data_dir is None:
        raise DataError(f"{name} is published data: name the folder that it was downloaded to with --data-dir")
    if name != "wallet" and world:
        raise DataError(f"{name} is published data: {', '.join(world)} can be chosen for the simulated wallet only")
    # imported by name, since the simulator's word lists take time to load
    path: Path = import_module(f"qanchor.datasets.{name}").prepare(raw, data_dir, **world)
    return path
