"""The log of a run: `metrics.jsonl`, one line a step and a validation; TensorBoard and Weights & Biases beside it.

The line is written always. TensorBoard's events are, too, where the package is (`pip install 'qanchor[track]'`; it
brings gRPC and a web server, so it is no base dependency); Weights & Biases only if WANDB_PROJECT is in the
environment, since it sends what it logs to a server.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from qanchor.errors import TrainingError


class Journal:
    """Written by one process. A resumed run drops the lines of the steps that it is about to repeat."""

    def __init__(self, folder: Path, done: int, settings: dict[str, Any]) -> None:
        """`done` steps of the whole run stand already; `settings` are shown beside the curves.

        Raises:
            TrainingError: WANDB_PROJECT is set and `wandb` is not installed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        kept = [line for line in _lines(self.path) if json.loads(line)["at"] <= done]
        fresh = folder / "metrics.jsonl.new"
        fresh.write_text("".join(kept), encoding="utf-8")
        os.replace(fresh, self.path)
        self.wandb = _wandb(folder, settings)
        self.board = _tensorboard(folder / "tensorboard", done)
        self.file = self.path.open("a", encoding="utf-8", buffering=1)

    def write(self, kind: str, at: int, record: dict[str, Any]) -> None:
        """One record after `at` steps of the whole run."""
        self.file.write(json.dumps({"kind": kind, "at": at, **record}) + "\n")
        numbers = {f"{kind}/{name}": value for name, value in record.items() if isinstance(value, int | float)}
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, at)
        if self.wandb:
            self.wandb.log(numbers, step=at)

    def close(self) -> None:
        self.file.close()
        for tracker in (self.board and self.board.close, self.wandb and self.wandb.finish):
            if tracker:
                tracker()


def _lines(path: Path) -> list[str]:
    """Whole lines: a kill may have cut the last one short."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _tensorboard(folder: Path, done: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)


def _wandb(folder: Path, settings: dict[str, Any]) -> Any:
    if "WANDB_PROJECT" not in os.environ:
        return None
    try:
        wandb: Any = importlib.import_module("wandb")
    except ImportError:
        raise TrainingError(
            "WANDB_PROJECT is set, but Weights & Biases is not installed: pip install 'qanchor[track]', or unset it"
        ) from None
    return wandb.init(id=folder.name, resume="allow", dir=str(folder), config=settings)
