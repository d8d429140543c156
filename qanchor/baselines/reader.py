"""The small network that reads sequences, and how every sequence baseline is trained and asked.

Shapes: B users, L places, L1 = 1 + L with the start before them, U texts, D width, W = 2D of an embedding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.baselines.sequences import FEATURES, GAP, LENGTH, Ints, Sequences, collate
from qanchor.errors import DataError
from qanchor.events.profiles import Profiles
from qanchor.model.backbone import device
from qanchor.model.text_encoder import NgramEncoder

BUCKETS = 8192
"""Rows of the n-gram table."""
START = 0.1
"""Deviation of the n-grams' vectors at the start."""
WARMUP = 20
"""Steps over which the learning rate rises."""
EMBED = 512
"""Users embedded at once."""


class EventEncoder(nn.Module):
    """An event's text (hashed n-grams, learned), modality, time and value as one vector z."""

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.text = NgramEncoder(width, BUCKETS)
        self.modality = nn.Embedding(modalities, width)
        # small, and brought to scale behind the table: at the usual scale of 1 a few hundred steps hardly move them
        nn.init.normal_(self.text.vectors.weight, std=START)
        self.scale = nn.LayerNorm(width)
        self.feature = nn.Linear(FEATURES, width)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, seq: Sequences, indexed: Any, feature_BLF: Tensor) -> Tensor:
        """[B, L, D]."""
        text_UD = self.text(indexed, seq.text_U) if len(seq.text_U) else feature_BLF.new_zeros(1, self.text.width)
        z_BLD: Tensor = self.out(
            self.scale(text_UD)[seq.text_BL] + self.modality(seq.modality_BL) + self.feature(feature_BLF)
        )
        return z_BLD


class Reader(nn.Module):
    """A start token that knows how many events of each modality there are, then the events, through a GRU or a
    transformer of two layers. A transformer counts places from the newest event."""

    def __init__(self, modalities: int, width: int, kind: Literal["gru", "transformer"]) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        self.events = EventEncoder(modalities, width)
        self.start = nn.Linear(modalities, width)
        if kind == "gru":
            self.body: nn.Module = nn.GRU(width, width, batch_first=True)
            return
        self.place = nn.Embedding(LENGTH + 1, width)
        self.hidden = nn.Parameter(torch.randn(width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 32), 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, seq: Sequences, indexed: Any, masked_BL: Tensor | None = None) -> Tensor:
        """States [B, 1 + L, D]; of events that are `masked_BL` nothing but the place is read."""
        feature_BLF = seq.feature_BLF
        if masked_BL is not None:  # the next event's gap would tell the time of a masked one
            after_BL = F.pad(masked_BL, (1, 0))[:, :-1]
            feature_BLF = feature_BLF.clone()
            feature_BLF[..., GAP] = feature_BLF[..., GAP].masked_fill(after_BL, 0)
        z_BLD = self.events(seq, indexed, feature_BLF)
        shown_BLD = z_BLD if masked_BL is None else torch.where(masked_BL[..., None], self.hidden, z_BLD)
        x_BL1D = torch.cat([self.start(seq.count_BM)[:, None], shown_BLD], 1)
        if self.kind == "gru":
            read_BL1D: Tensor = self.body(x_BL1D)[0]
            return read_BL1D
        length_B1 = seq.real_BL.sum(1, keepdim=True)
        place_L1 = torch.arange(x_BL1D.shape[1], device=x_BL1D.device)
        from_end_BL1, padding_BL1 = (length_B1 - place_L1).clamp(min=0), place_L1 > length_B1
        state_BL1D: Tensor = self.body(x_BL1D + self.place(from_end_BL1), src_key_padding_mask=padding_BL1)
        return state_BL1D

    def pooled(self, seq: Sequences, state_BL1D: Tensor) -> Tensor:
        """[B, 2D]: the mean of the states, beside the last one of a GRU or a transformer's largest values."""
        length_B = seq.real_BL.sum(1)
        place_L1 = torch.arange(state_BL1D.shape[1], device=state_BL1D.device)
        real_BL11 = (place_L1 <= length_B[:, None])[..., None]
        mean_BD = (state_BL1D * real_BL11).sum(1) / (length_B + 1)[:, None]
        if self.kind == "gru":
            return torch.cat([mean_BD, state_BL1D[torch.arange(len(seq), device=length_B.device), length_B]], 1)
        return torch.cat([mean_BD, state_BL1D.masked_fill(~real_BL11, -torch.inf).amax(1)], 1)


class SequenceBaseline(ABC):
    """Trains a `Reader` by a loss of its own; `fit` and `embed` as in `Baseline`."""

    kind: Literal["gru", "transformer"] = "gru"

    def __init__(self, seed: int = 0, steps: int = 300, batch: int = 64, lr: float = 2e-3, width: int = 64) -> None:
        self.seed, self.steps, self.batch, self.lr, self.width = seed, steps, batch, lr, width

    @abstractmethod
    def build(self, past: Profiles, future: Profiles) -> nn.Module:
        """Make targets ready, and the modules beside the reader that the loss needs."""

    @abstractmethod
    def loss(self, rows: Ints, rng: np.random.Generator, progress: float) -> Tensor:
        """The loss of a batch of training rows; `progress` runs from 0 to 1. All chance but dropout is `rng`'s."""

    def fit(self, past: Profiles, future: Profiles) -> Self:
        rows = np.flatnonzero(past.counts > 1)
        if len(rows) < 2:
            raise DataError(f"{len(rows)} of {len(past)} training profiles hold two events or more: check `windows`")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.reader = Reader(len(past.modalities), self.width, self.kind)
            self.reader.events.text.weigh(past.texts.described)
            self.texts = past.texts
            self.indexed = self.reader.events.text.index(past.texts.described)
            self.head = self.build(past, future).to(device())
            self.reader.to(device())
            self._train(rows)
        self.reader.eval()
        return self

    def _train(self, rows: Ints) -> None:
        rng = np.random.default_rng(self.seed)
        parameters = [*self.reader.parameters(), *self.head.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.01)
        for step in range(self.steps):
            for group in optimiser.param_groups:
                decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))
                group["lr"] = self.lr * min(1.0, (step + 1) / WARMUP) * decay
            drawn = rng.choice(rows, min(self.batch, len(rows)), replace=False)
            loss = self.loss(drawn, rng, step / self.steps)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()

    def embed(self, past: Profiles) -> npt.NDArray[np.float32]:
        known = past.texts is self.texts  # a store's table is large, and read for every text
        indexed = self.indexed if known else self.reader.events.text.index(past.texts.described)
        out = np.empty((len(past), 2 * self.width), np.float32)
        order = np.argsort(past.counts, kind="stable")  # users of like length together
        with torch.inference_mode():
            for at in range(0, len(order), EMBED):
                rows = order[at : at + EMBED]
                seq = collate(past, rows)
                out[rows] = self.reader.pooled(seq, self.reader(seq, indexed)).cpu().numpy()
        return out


def contrast(a_BW: Tensor, b_BW: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE: row i of `a` belongs to row i of `b`; both are brought to unit length."""
    logit_BB = F.normalize(a_BW, dim=-1) @ F.normalize(b_BW, dim=-1).T / temperature
    own_B = torch.arange(len(logit_BB), device=logit_BB.device)
    return (F.cross_entropy(logit_BB, own_B) + F.cross_entropy(logit_BB.T, own_B)) / 2
