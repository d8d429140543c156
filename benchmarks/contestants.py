"""What the benchmarks share: the authors' layout, the shape of Qwen2.5-0.5B, and how things are measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from qanchor.model import backbone as backbones
from qanchor.model.batch import Batch
from qanchor.model.hierarchy import Adapter, Prefix
from qanchor.model.text_encoder import TextEncoder
from qanchor.model.towers import Towers
from qanchor.model.vectors import VectorTable
from qanchor.training.speed import settle

T = TypeVar("T")
NOT_YET = "not yet measured: no GPU was at hand"
SLOTS = {"bill": 250, "mini": 150, "spm": 150, "search": 10, "app": 100, "tabular": 50}
"""The authors' 710, and the order of the blocks."""
TEXT_TOKENS, TEXT_WIDTH = 16, 768
QWEN_05B = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "use_cache": False,
}


class Remembered(TextEncoder):
    """A frozen encoder whose vectors are on disk already, random ones: what `text_encoder: thenlper/gte-base` costs."""

    width = TEXT_WIDTH

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def index(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> VectorTable:
        vector_TW = np.random.default_rng(0).standard_normal((len(texts), self.width)).astype(np.float16)
        return VectorTable(vector_TW, np.arange(len(texts)))

    def forward(self, indexed: VectorTable, rows: Tensor) -> Tensor:
        return torch.from_numpy(indexed.take(rows.numpy())).to(self.device)


class FixedSlots(nn.Module):
    """Eq. 1-2 in the authors' layout: the newest events of each modality in its slots, whatever there is of them.

    `bert` reads the text of every event; without it, vectors come from the text table.
    """

    def __init__(
        self, modalities: Sequence[str], width: int, bert: BertModel | None, token_TL: Tensor, mask_TL: Tensor
    ):
        super().__init__()
        self.bert, self.token_TL, self.mask_TL = bert, token_TL, mask_TL
        self.slots = [SLOTS[name] for name in modalities]
        self.copied = modalities.index("tabular")
        self.event = nn.ModuleList(Adapter(TEXT_WIDTH, width) for _ in modalities)
        self.modal, self.user = Adapter(width, width), Adapter(len(modalities) * width, width)

    def forward(self, batch: Batch, text_UW: Tensor) -> Prefix:
        row_R, slot_R, used_R = (part.to(text_UW.device) for part in self._places(batch))
        vector_RW = text_UW[used_R] if self.bert is None else self._read(batch.text_U.to(text_UW.device)[used_R])
        h_BSW = vector_RW.new_zeros(len(batch), sum(self.slots), TEXT_WIDTH).index_put((row_R, slot_R), vector_RW)
        mask_BS = torch.zeros(h_BSW.shape[:2], dtype=torch.bool, device=h_BSW.device)
        mask_BS[row_R, slot_R] = True
        start = sum(self.slots[: self.copied])
        copies = slice(start, start + self.slots[self.copied])
        h_BSW[:, copies], mask_BS[:, copies] = h_BSW[:, start, None], mask_BS[:, start, None]

        blocks = zip(self.event, h_BSW.split(self.slots, 1), mask_BS.split(self.slots, 1), strict=True)
        tokens, means = [], []
        for adapter, h_BKW, mask_BK in blocks:
            tokens.append(adapter(h_BKW))
            means.append((tokens[-1] * mask_BK[..., None]).sum(1) / mask_BK.sum(1).clamp(min=1)[:, None])
        modal_BMD = self.modal(torch.stack(means, 1))
        user_B1D = self.user(modal_BMD.flatten(1))[:, None]
        token_BPD = torch.cat([user_B1D, modal_BMD, *tokens], 1)
        head_BX = mask_BS.new_ones(len(batch), 1 + len(self.slots))
        return Prefix(token_BPD, torch.cat([head_BX, mask_BS], 1), *[token_BPD.new_zeros(len(token_BPD), 0)] * 3)

    def _places(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """User, slot, and row of `batch.text_U` of each event that has a slot; newest first."""
        kinds = len(self.slots)
        cell_E = batch.owner_E * kinds + batch.modality_E
        order = cell_E.argsort(stable=True)  # events are in time order
        cell_E, modality_E = cell_E[order], batch.modality_E[order]
        since_E = torch.searchsorted(cell_E, cell_E, right=True) - torch.arange(len(cell_E)) - 1
        limit_M = torch.tensor([1 if m == self.copied else slots for m, slots in enumerate(self.slots)])
        kept = since_E < limit_M[modality_E]
        start_M = torch.tensor(self.slots).cumsum(0) - torch.tensor(self.slots)
        slot_E = start_M[modality_E] + since_E
        return batch.owner_E[order][kept], slot_E[kept], batch.text_E[order][kept]

    @torch.no_grad()
    def _read(self, text_R: Tensor) -> Tensor:
        """[R, 768] vectors of texts, equal ones read as often as they occur; padded to the longest."""
        mask_RL = self.mask_TL[text_R]
        longest = int(mask_RL.sum(1).max())
        token_RL, mask_RL = self.token_TL[text_R, :longest], mask_RL[:, :longest]
        state_RLW = self.bert(input_ids=token_RL, attention_mask=mask_RL).last_hidden_state
        return (state_RLW * mask_RL[..., None]).sum(1) / mask_RL.sum(1)[:, None]


class AuthorsTowers(Towers):
    """The two towers over `FixedSlots`; all that follows the prefix is ours."""

    def prefix(self, batch: Batch, indexed: Any) -> Prefix:
        prefix: Prefix = self.hierarchy(batch, self.text_encoder(indexed, batch.text_U))
        return prefix


def bert(layers: int, device: torch.device) -> BertModel:
    """The authors' event encoder: of BERT's size, random, frozen."""
    settings = BertConfig(
        num_hidden_layers=layers, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, vocab_size=30_522
    )
    model = BertModel(settings, add_pooling_layer=False).to(device, backbones.compute_dtype())
    return model.requires_grad_(False)


def product_rate(rows: int, width: int, inner: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOPs a second of a linear layer of the model: its product, its input's gradient and its weight's.

    Over a stretch as long as a step, so that a busy machine slows both alike.
    """
    x_RD, g_RI, w_ID = (
        torch.randn(size, device=device, dtype=dtype) for size in ((rows, width), (rows, inner), (inner, width))
    )

    def products() -> None:
        _ = x_RD @ w_ID.T, g_RI @ w_ID, g_RI.T @ x_RD
        settle(device)

    products()
    rounds, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < 0.5:
        products()
        rounds += 1
    return 6 * rows * width * inner * rounds / seconds


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def machine(device: str) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
    }
