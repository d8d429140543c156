"""Soft prompts: what tuning learns for one scenario, a few KB, tied to the model that it was learned on.

Shapes: K prompt vectors, D width of the backbone, C classes, O width of an embedding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from qanchor.errors import ModelError


@dataclass(frozen=True)
class SoftPrompt:
    """The learned suffix of a scenario: prompt vectors and class prototypes (section 3.2.3)."""

    scenario: str
    query: str
    prompt_KD: Tensor
    prototype_CO: Tensor
    model: str
    """Fingerprint of the model that the prompt was tuned on."""

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"prompt": self.prompt_KD.detach().contiguous(), "prototype": self.prototype_CO.detach().contiguous()}
        about = {"scenario": self.scenario, "query": self.query, "model": self.model}
        save_file(tensors, path, metadata={"qanchor": json.dumps(about)})

    @classmethod
    def load(cls, path: Path, model: str) -> SoftPrompt:
        """Read a prompt for the model of fingerprint `model`.

        Raises:
            ModelError: there is no such file, or it was tuned on another model.
        """
        if not path.exists():
            raise ModelError(f"no soft prompt at {path}: tune the scenario first (`qanchor tune`)")
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["qanchor"])
            prompt_KD, prototype_CO = file.get_tensor("prompt"), file.get_tensor("prototype")
        if about["model"] != model:
            raise ModelError(
                f"{path} was tuned on model {about['model']}, this is model {model}: tune the scenario again on it"
            )
        return cls(about["scenario"], about["query"], prompt_KD, prototype_CO, about["model"])
