"""Checkpoints of a run: weights and optimiser as safetensors, the position as JSON; never half-written."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qanchor.model.persistence import restore, weights


@dataclass(frozen=True)
class Position:
    """Where a run stands: `step` steps of `phase` are done; `best` is the lowest validation loss so far."""

    phase: str
    step: int
    best: float


class Checkpoints:
    """The folder of one run: `last/` to resume from, `best/` by validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("last", "best"):  # killed in the middle of a swap: the old one is still whole
            if not (folder / name).exists() and (folder / f"{name}.old").exists():
                os.replace(folder / f"{name}.old", folder / name)

    def position(self) -> Position | None:
        """Where `last` stands, or None for a fresh start."""
        path = self.folder / "last" / "position.json"
        return Position(**json.loads(path.read_text())) if path.exists() else None

    def save(self, model: nn.Module, optimiser: torch.optim.Optimizer, position: Position) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in weights(model).items()}
        for group in optimiser.param_groups:
            for i, parameter in enumerate(group["params"]):
                tensors[f"optimiser.{i}.parameter"] = parameter
                for key, value in optimiser.state[parameter].items():
                    tensors[f"optimiser.{i}.{key}"] = value
        self._write("last", tensors, asdict(position))

    def load(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Put model and optimiser back exactly where `last` left them."""
        tensors = load_file(self.folder / "last" / "state.safetensors")
        restore(
            model, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, "checkpoint"
        )
        for group in optimiser.param_groups:
            for i, parameter in enumerate(group["params"]):
                prefix = f"optimiser.{i}."
                state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                with torch.no_grad():
                    parameter.copy_(state.pop("parameter"))
                if state:
                    optimiser.state[parameter] = state

    def save_best(self, model: nn.Module) -> None:
        self._write("best", weights(model), {})

    def load_best(self, model: nn.Module) -> None:
        restore(model, load_file(self.folder / "best" / "state.safetensors"), "checkpoint")

    def _write(self, name: str, tensors: dict[str, Tensor], position: dict[str, object]) -> None:
        """Write beside the old checkpoint, then swap: a kill leaves the old one, or the new one, whole."""
        fresh, old, final = (self.folder / f"{name}{end}" for end in (".new", ".old", ""))
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file(
            {key: value.detach().contiguous().clone() for key, value in tensors.items()}, fresh / "state.safetensors"
        )
        (fresh / "position.json").write_text(json.dumps(position))
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            os.replace(final, old)
        os.replace(fresh, final)
        shutil.rmtree(old, ignore_errors=True)
