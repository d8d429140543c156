"""What an evaluation found: the scores of every scenario and column, kept as `results.json`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from qanchor.errors import DataError
from qanchor.probe.linear import Score

ORACLE = "oracle"
"""The column of the best possible score; it takes part in no contest."""
ZERO_SHOT = "zero-shot"
"""The column of scores by a scenario's statements, to which nothing was fitted."""


@dataclass(frozen=True)
class Results:
    """Scores by scenario and column, and what is needed to know where they come from."""

    data: str
    """Name of the config."""
    scenarios: dict[str, dict[str, Score]]
    """scenario -> column -> score; every scenario has the same columns in the same order."""
    sizes: dict[str, int] = field(default_factory=dict)
    """What was counted, by its name: `{"test rows": 4800}`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """stage -> seconds."""
    command: str = ""
    hardware: str = ""
    date: str = ""

    @property
    def columns(self) -> list[str]:
        return list(next(iter(self.scenarios.values()), {}))

    @property
    def average(self) -> dict[str, dict[str, float]]:
        """column -> {"auc", "ks"}: the mean over those scenarios that every column has a score for."""
        scored = [row for row in self.scenarios.values() if all(isfinite(score.auc) for score in row.values())]
        return {
            column: {
                metric: float(np.mean([getattr(row[column], metric) for row in scored])) if scored else nan
                for metric in ("auc", "ks")
            }
            for column in self.columns
        }

    def save(self, path: Path) -> None:
        """Write `results.json`, replaced atomically. A number that does not exist is null."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(fresh, path)

    def as_json(self) -> dict[str, Any]:
        """The content of `results.json`, plain dictionaries."""
        return {
            "data": self.data,
            "scenarios": {
                name: {column: _without_nan(asdict(score)) for column, score in row.items()}
                for name, row in self.scenarios.items()
            },
            "average": {column: _without_nan(means) for column, means in self.average.items()},
            "seconds": self.seconds,
            "sizes": self.sizes,
            "command": self.command,
            "hardware": self.hardware,
            "date": self.date,
        }

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing or is not a `results.json`.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            del found["average"]
            found["scenarios"] = {
                name: {column: Score(**_with_nan(score)) for column, score in row.items()}
                for name, row in found["scenarios"].items()
            }
            return cls(**found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is not a results.json ({error}): write one with `qanchor evaluate`") from None


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in values.items()}


def _with_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {key: nan if value is None else value for key, value in values.items()}
