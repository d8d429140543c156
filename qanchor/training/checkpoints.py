"""Checkpoints of a run: weights and optimiser as safetensors, the position as JSON; never half-written.

A checkpoint is a folder that is written under another name and then renamed, so that a kill leaves it out or whole.
What a machine's crash tears all the same is found by its checksum, and the one before is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qanchor.model.persistence import restore, weights

KEPT = {"last": 2, "best": 1}
"""How many of each kind stay: `last-N` to resume from, `best-N` by validation."""


@dataclass(frozen=True)
class Position:
    """Where a run stands: `step` steps of `phase` are done; `best` is the lowest validation loss so far."""

    phase: str
    step: int
    best: float


class Checkpoints:
    """The folder of one run. One process writes to it, when all others have read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def position(self) -> Position | None:
        """Where the newest whole checkpoint stands, or None for a fresh start."""
        last = self._newest("last")
        return Position(**last[1]) if last else None

    def save(self, model: nn.Module, optimiser: torch.optim.Optimizer, position: Position) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in weights(model).items()}
        for group in optimiser.param_groups:
            for i, parameter in enumerate(group["params"]):
                tensors[f"optimiser.{i}.parameter"] = parameter
                for key, value in optimiser.state[parameter].items():
                    tensors[f"optimiser.{i}.{key}"] = value
        self._write("last", tensors, asdict(position))

    def load(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Put model and optimiser back exactly where `position` is, if there is one."""
        last = self._newest("last")
        if last is None:
            return
        tensors = load_file(last[0] / "state.safetensors")
        restore(
            model, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, "checkpoint"
        )
        for group in optimiser.param_groups:
            for i, parameter in enumerate(group["params"]):
                prefix = f"optimiser.{i}."
                state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                with torch.no_grad():
                    parameter.copy_(state.pop("parameter"))
                if state:  # the count of steps stays on the CPU, as the optimiser keeps it
                    optimiser.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                    }

    def save_best(self, model: nn.Module) -> None:
        self._write("best", weights(model), {})

    def load_best(self, model: nn.Module) -> None:
        """The best weights by validation; the model stays as it is where none were ever saved."""
        best = self._newest("best")
        if best:
            restore(model, load_file(best[0] / "state.safetensors"), "checkpoint")

    def _write(self, kind: str, tensors: dict[str, Tensor], position: dict[str, object]) -> None:
        folders = self._folders(kind)
        final = self.folder / f"{kind}-{_number(folders[-1]) + 1 if folders else 0}"
        fresh = self.folder / f"{kind}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        state = fresh / "state.safetensors"
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, state)
        told = {"position": position, "sha256": _digest(state)}
        (fresh / "position.json").write_text(json.dumps(told))
        for path in (state, fresh / "position.json", fresh):
            _sync(path)
        os.replace(fresh, final)
        _sync(self.folder)
        for old in [*folders, final][: -KEPT[kind]]:
            shutil.rmtree(old)

    def _newest(self, kind: str) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint whose state is what was written, and its position."""
        for folder in reversed(self._folders(kind)):
            try:
                told = json.loads((folder / "position.json").read_text())
                if told["sha256"] == _digest(folder / "state.safetensors"):
                    return folder, told["position"]
            except (OSError, ValueError, KeyError):
                continue
        return None

    def _folders(self, kind: str) -> list[Path]:
        """Checkpoints of a kind, oldest first."""
        return sorted(self.folder.glob(f"{kind}-*"), key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have it on the disk, so that a rename never outlives what it renamed."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
