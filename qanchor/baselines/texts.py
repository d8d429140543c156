"""General text embeddings: a profile told in words, read by any Hugging Face encoder or decoder, untrained here.

The paper's four are here by name, as their model cards use them; any folder or name will do (`checkpoint`).

Shapes: R texts, L tokens, W width.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.config import Config
from qanchor.errors import ModelError
from qanchor.events.profiles import Profiles
from qanchor.model.backbone import compute_dtype, device, loading
from qanchor.useru.synthesis.profile_text import profile_texts
from qanchor.useru.synthesis.redact import Redactor

LINES = 12
"""Lines of a profile, one a distinct text: the frequent and the recent ones of every modality. More would not be read:
twelve take about `TOKENS` tokens."""
TOKENS = 256
"""Longer profiles lose their end."""
BATCH = {"cpu": 64, "cuda": 512}
"""Profiles read at once."""
TASK = "Given the log of what a user did, represent the user's habits, interests and future behaviour"


@dataclass(frozen=True)
class Checkpoint:
    """A published model, and how its card says that it is asked."""

    name: str
    """On the Hugging Face hub, or a folder."""
    pooling: Literal["mean", "last", "cls"]
    template: str = "{text}"
    """May hold {task}, for models that take an instruction."""
    bidirectional: bool = False
    """A Llama that was trained to read both ways, published with code of its own, which we do not run: its weights are
    loaded into the library's Llama, and a full mask is handed over with each batch."""


INSTRUCT = "Instruct: {task}\nQuery: {text}"
PAPER = {
    "qwen2.5-0.5b": Checkpoint("Qwen/Qwen2.5-0.5B-Instruct", "mean"),
    "qwen3-embedding-0.6b": Checkpoint("Qwen/Qwen3-Embedding-0.6B", "last", "Instruct: {task}\nQuery:{text}"),
    "llama-embed-nemotron-8b": Checkpoint("nvidia/llama-embed-nemotron-8b", "mean", INSTRUCT, bidirectional=True),
    "kalm-gemma3-12b": Checkpoint("tencent/KaLM-Embedding-Gemma3-12B-2511", "last", INSTRUCT),
}
"""Table 2's general models. Qwen2.5 is no embedding model: that its states are averaged is our choice."""


def checkpoint(name: str) -> Checkpoint:
    """One of the paper's by its short name, or any model, pooled as its folder says (`1_Pooling`), else by the mean."""
    return PAPER.get(name) or Checkpoint(name, _pooling(name))


class TextEmbedding:
    """`fit` and `embed` as in `Baseline`; nothing is learned."""

    def __init__(self, config: Config, chosen: Checkpoint) -> None:
        self.config, self.chosen = config, chosen

    def fit(self, past: Profiles, future: Profiles) -> TextEmbedding:
        """Load the model. Raises ModelError when it cannot be loaded."""
        from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaModel

        name = self.chosen.name
        with loading("text embedding model", name), _no_bar():
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            kind: Any = LlamaModel if self.chosen.bidirectional else AutoModel
            given = {"config": LlamaConfig.from_pretrained(name)} if self.chosen.bidirectional else {}
            model = kind.from_pretrained(name, dtype=compute_dtype(), use_safetensors=True, **given)
        self.model = model.to(device()).eval()
        self.tokenizer.padding_side = self.tokenizer.truncation_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        return self

    def embed(self, past: Profiles) -> npt.NDArray[np.float32]:
        """[N, W]."""
        texts = list(self._told(past))
        order = np.argsort([len(text) for text in texts], kind="stable")  # like lengths together
        out = np.empty((len(texts), int(self.model.config.hidden_size)), np.float32)
        with torch.inference_mode():
            batch = BATCH[self.model.device.type]
            for at in range(0, len(order), batch):
                rows = order[at : at + batch]
                out[rows] = self._read([texts[row] for row in rows]).cpu().numpy()
        return out

    def _told(self, past: Profiles) -> Iterator[str]:
        for told in profile_texts(self.config, past, Redactor((), ()), LINES):
            yield self.chosen.template.format(task=TASK, text=told.text)

    def _read(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        mask_RL = tokens["attention_mask"].bool()
        mask: Tensor = mask_RL
        if self.chosen.bidirectional:
            lowest = torch.finfo(self.model.dtype).min
            mask = torch.zeros_like(mask_RL, dtype=self.model.dtype).masked_fill(~mask_RL, lowest)
            mask = mask[:, None, None].expand(-1, 1, mask_RL.shape[1], -1)
        state_RLW = self.model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state.float()
        if self.chosen.pooling == "mean":
            mean_RW: Tensor = (state_RLW * mask_RL[..., None]).sum(1) / mask_RL.sum(1, keepdim=True)
            return mean_RW
        last_R = mask_RL.sum(1) - 1
        place_R = last_R if self.chosen.pooling == "last" else torch.zeros_like(last_R)
        read_RW: Tensor = state_RLW[torch.arange(len(texts), device=place_R.device), place_R]
        return read_RW


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """The library's own progress bars would run through the bench's board."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


POOLINGS: dict[str, Literal["mean", "last", "cls"]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
}


def _pooling(name: str) -> Literal["mean", "last", "cls"]:
    """What sentence-transformers' own file in the folder says. Raises ModelError for what we do not know."""
    path = Path(name) / "1_Pooling" / "config.json"
    if not path.exists():
        return "mean"
    modes = json.loads(path.read_text(encoding="utf-8"))
    on = [mode for mode, used in modes.items() if mode.startswith("pooling_mode_") and used is True]
    if len(on) != 1 or on[0] not in POOLINGS:
        raise ModelError(f"{path} pools by {on}, expected one of {', '.join(POOLINGS)}: choose another model")
    return POOLINGS[on[0]]
