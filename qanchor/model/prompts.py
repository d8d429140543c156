"""Soft prompts: what tuning learns for one scenario, a few KB, tied to the model that it was learned on.

Shapes: K prompt vectors, D width of the backbone, C classes, O width of an embedding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qanchor.errors import ModelError
from qanchor.events import atomic

FORMAT = 1


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

    @property
    def classes(self) -> int:
        return len(self.prototype_CO)

    def save(self, path: Path) -> None:
        """Write it as safetensors, the words in the metadata; an older prompt is replaced in one step."""
        tensors = {"prompt": self.prompt_KD.detach().contiguous(), "prototype": self.prototype_CO.detach().contiguous()}
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
                prompt_KD, prototype_CO = file.get_tensor("prompt"), file.get_tensor("prototype")
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
        return cls(about["scenario"], about["query"], prompt_KD, prototype_CO, about["model"])
