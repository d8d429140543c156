"""LightGBM, loaded where trees are grown: models are read and served without it."""

from __future__ import annotations

import importlib
from typing import Any

from qanchor.errors import TrainingError


def load() -> Any:
    """The library. Raises TrainingError where it cannot be loaded."""
    try:
        return importlib.import_module("lightgbm")
    except (ImportError, OSError) as error:
        raise TrainingError(
            f"LightGBM, which grows trees, cannot be loaded ({error}): pip install lightgbm; "
            "on macOS it also wants `brew install libomp`"
        ) from None
