"""Pretrained sentence encoders (BERT shapes such as gte-base), frozen or with LoRA.

Shapes: R texts, U distinct ones of them, T texts of a table, L tokens, W width of a text vector.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.config import Lora
from qanchor.errors import ModelError
from qanchor.model.backbone import compute_dtype, loading, spelling, with_lora
from qanchor.model.text_encoder import TextEncoder
from qanchor.model.vectors import Vectors, VectorTable

BATCH = 256
"""Texts read at once."""


@dataclass(frozen=True)
class TextRows:
    """Texts that are encoded anew in every batch, since their encoder learns; equal ones are one."""

    texts: list[str]
    text_T: Tensor
    """[T] index into `texts`."""

    def __len__(self) -> int:
        return len(self.text_T)

    @classmethod
    def of(cls, texts: Sequence[str]) -> TextRows:
        place = {text: u for u, text in enumerate(dict.fromkeys(texts))}
        return cls(list(place), torch.tensor([place[text] for text in texts], dtype=torch.long))


class SentenceEncoder(TextEncoder):
    """A Hugging Face encoder, pooled as its own folder says (mean of the last layer, or its first token), unit length.

    Frozen, it reads each distinct text once: vectors are kept in `vectors`, one folder an encoder, for every later
    table, run and process that is given the same place; left out, in a temporary one. With LoRA, in training, it reads
    the distinct texts of a batch whenever they are asked for; once trained it is as good as frozen.
    """

    def __init__(self, name: str, lora: Lora | None = None, vectors: Path | None = None, max_tokens: int = 64) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        self.name, self.lora, self.max_tokens = name, lora, max_tokens
        with loading("text encoder", name):
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self.model: Any = AutoModel.from_pretrained(name, dtype=compute_dtype(), use_safetensors=True)
        self.pooling = _pooling(name)
        self.width = int(self.model.config.hidden_size)
        self.model.pooler = None  # a BERT's own, which nobody reads
        self.model.requires_grad_(False)
        if lora:
            self.model = with_lora(self.model, lora, "FEATURE_EXTRACTION")
        self.vectors = vectors or _temporary(self)
        self.train(self.training)

    def train(self, mode: bool = True) -> SentenceEncoder:
        """The encoder's own dropout stays off in training, too: one text, one vector."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def learns(self) -> bool:
        return self.lora is not None and self.training

    def index(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> VectorTable | TextRows:
        if self.learns:
            return TextRows.of(texts)
        place = Vectors(self.vectors / self.fingerprint(), self.width)
        return place.table(texts, lambda part: self._read_frozen(part).cpu().numpy(), progress)

    def forward(self, indexed: VectorTable | TextRows, rows: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        if isinstance(indexed, TextRows):
            used, place_R = torch.unique(indexed.text_T[rows], return_inverse=True)
            return self.read([indexed.texts[u] for u in used])[place_R.to(device)]
        if self.learns:
            raise ModelError("these texts were indexed for inference: index them again after `.train()`")
        return torch.from_numpy(indexed.take(rows.numpy())).to(device)

    def read(self, texts: Sequence[str]) -> Tensor:
        """[U, W] unit-length vectors of texts, read now; with gradients where the encoder learns."""
        # like lengths together, so that a batch holds little padding
        order = np.argsort([len(text) for text in texts], kind="stable")
        parts = [self._pooled([texts[i] for i in order[at : at + BATCH]]) for at in range(0, len(texts), BATCH)]
        vector_UW = torch.cat(parts) if parts else torch.zeros(0, self.width)
        return vector_UW[torch.from_numpy(np.argsort(order)).to(vector_UW.device)]

    @torch.no_grad()
    def _read_frozen(self, texts: Sequence[str]) -> Tensor:
        return self.read(texts)

    def _pooled(self, texts: list[str]) -> Tensor:
        device = next(self.model.parameters()).device
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        tokens = tokens.to(device)
        state_ULW = self.model(**tokens).last_hidden_state.float()
        if self.pooling == "cls":
            return F.normalize(state_ULW[:, 0], dim=-1)
        mask_UL1 = tokens["attention_mask"][..., None]
        return F.normalize((state_ULW * mask_UL1).sum(1) / mask_UL1.sum(1), dim=-1)

    def importance(self, indexed: VectorTable | TextRows) -> Tensor:
        return torch.ones(len(indexed), device=next(self.model.parameters()).device)

    def settings(self) -> dict[str, Any]:
        lora = self.lora and self.lora.model_dump()
        return {"kind": "sentence", "name": self.name, "max_tokens": self.max_tokens, "lora": lora}

    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any weight, with the tokenizer and with the pooling."""
        digest = hashlib.sha256(f"{self.pooling} {self.max_tokens}".encode())
        digest.update(spelling(self.tokenizer))
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).cpu().numpy())
        return digest.hexdigest()[:16]


def _pooling(name: str) -> str:
    """`mean` or `cls`, as `1_Pooling/config.json` (sentence-transformers' own) says; without one, `mean`.

    Raises:
        ModelError: the encoder is pooled in another way.
    """
    from transformers.utils import cached_file

    path = cached_file(name, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return "mean"
    modes = json.loads(Path(path).read_text(encoding="utf-8"))
    on = [mode for mode, used in modes.items() if mode.startswith("pooling_mode_") and used is True]
    if on == ["pooling_mode_mean_tokens"]:
        return "mean"
    if on == ["pooling_mode_cls_token"]:
        return "cls"
    raise ModelError(f"text encoder {name!r} is pooled by {on}, expected mean or cls: choose another, such as gte-base")


def _temporary(owner: nn.Module) -> Path:
    """A folder that goes with its owner."""
    folder = tempfile.mkdtemp(prefix="qanchor-vectors-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
