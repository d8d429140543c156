"""Soft prompts: what tuning learns for one scenario, some tens of KB, tied to the model that it was learned on.

Shapes: K prompt vectors, D width of the backbone, C classes, O width of an embedding, X streams that it is mixed of; B
users, N suffixes of each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qanchor.errors import ModelError
from qanchor.events import atomic
from qanchor.model.head import PROMPTED, STREAMS
from qanchor.model.readout import Readout

FORMAT = 5


@dataclass(frozen=True)
class SoftPrompt:
    """The learned suffix of a scenario: prompt vectors and class prototypes (section 3.2.3)."""

    scenario: str
    query: str
    prompt_KD: Tensor
    prototype_CO: Tensor
    """Unit-length prototypes of the classes 0..C-1; all zero where the scenario could not be tuned."""
    model: str
    """Fingerprint of the model that the prompt was tuned on."""
    readout: Readout = field(default_factory=Readout.none)
    """What is written over what an embedding is mixed of."""

    @property
    def classes(self) -> int:
        return len(self.prototype_CO)

    @property
    def share_X(self) -> Tensor:
        """How many times as much as usual an embedding holds of each stream."""
        return torch.tensor(PROMPTED) if self.prototype_CO.any() else torch.ones(len(STREAMS))

    @property
    def numbers(self) -> list[Any]:
        """All that an embedding depends on, to be hashed."""
        tensors = (self.prompt_KD, self.share_X, *self.readout.tensors.values())
        return [tensor.float().cpu().tolist() for tensor in tensors]

    def save(self, path: Path) -> None:
        """Write it as safetensors, the words in the metadata; an older prompt is replaced in one step."""
        named = {"prompt": self.prompt_KD, "prototype": self.prototype_CO, **self.readout.tensors}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
        about = {
            "format": FORMAT,
            "scenario": self.scenario,
            "query": self.query,
            "classes": self.classes,
            "model": self.model,
        }
        atomic.write(path, save(tensors, {"qanchor": json.dumps(about, ensure_ascii=False)}))

    @classmethod
    def load(cls, path: Path, model: str) -> SoftPrompt:
        """Read a prompt for the model of fingerprint `model`.

        Raises:
            ModelError: there is no such file, it is no soft prompt or of another format, or it was tuned on another
                model (other weights, another tokenizer or another text encoder).
        """
        if not path.exists():
            raise ModelError(f"no soft prompt at {path}: tune the scenario first (`qanchor tune`)")
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["qanchor"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ModelError(
                f"{path} is no soft prompt ({error}), expected safetensors with `prompt`, `prototype` and metadata: "
                "tune the scenario again"
            ) from None
        if about.get("format") != FORMAT:
            raise ModelError(
                f"{path} has format {about.get('format')!r}, this version reads {FORMAT}: tune the scenario again"
            )
        if about["model"] != model:
            raise ModelError(
                f"{path} was tuned on model {about['model']}, this is model {model}: tune the scenario again on it"
            )
        own = tensors["prompt"], tensors["prototype"], about["model"], Readout.of(tensors)
        return cls(about["scenario"], about["query"], *own)


@dataclass(frozen=True)
class Prompts:
    """What N suffixes of each of B users have of their own, as the towers take it; B is 1 where all are asked alike."""

    prompt_BNKD: Tensor
    share_BNX: Tensor
    readout: Readout

    @classmethod
    def of(cls, own: Sequence[SoftPrompt | None], shared_KD: Tensor) -> Prompts:
        """[1, N] of these scenarios; None, a free question, has the shared prompt and nothing else."""
        plain = SoftPrompt("", "", shared_KD.detach(), shared_KD.new_zeros(0), "")
        each, device = [one or plain for one in own], shared_KD.device
        prompt_1NKD = torch.stack([one.prompt_KD.to(device) for one in each])[None]
        share_1NX = torch.stack([one.share_X for one in each])[None].to(device)
        return cls(prompt_1NKD, share_1NX, Readout.stack([one.readout for one in each], device))

    def __len__(self) -> int:
        """Suffixes of each user."""
        return self.prompt_BNKD.shape[1]

    def take(self, row_BN: Tensor) -> Prompts:
        """Each user's own suffixes, by their rows among those of all."""
        return Prompts(self.prompt_BNKD[0, row_BN], self.share_BNX[0, row_BN], self.readout.take(row_BN))
