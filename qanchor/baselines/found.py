"""FOUND: contrast of time windows with a cyclic regulariser, then alignment with the text of the future (Dou et al.,
WWW 2025).

First half of training: a user's embedding of one stretch of time is to be told from other users' by that of the
next. Second half: the embedding of the past is aligned with that of a text that says what the user did afterwards.

The paper leaves open, and ours is: the two stretches are before and after a random moment in the middle half of the
lookback window; the cyclic regulariser is CyCLIP's, |s(a_i, b_j) - s(a_j, b_i)|^2 and |s(a_i, a_j) - s(b_i, b_j)|^2;
the text of the future is the mean of its events' learned n-gram vectors, through a tower of its own; users who did
nothing are left out of that batch; embeddings are read before the two projections, as is usual in contrastive learning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.baselines.reader import BUCKETS, SequenceBaseline, contrast
from qanchor.baselines.sequences import Ints, collate
from qanchor.events.profiles import Profiles
from qanchor.model.text_encoder import NgramEncoder

SHARE = 0.5
"""Of the steps that belong to the contrast of time windows."""


class FOUND(SequenceBaseline):
    def __init__(self, seed: int = 0, temperature: float = 0.1, cyclic: float = 0.25, **training: Any) -> None:
        """`cyclic`: weight of the regulariser."""
        super().__init__(seed, **training)
        self.temperature, self.cyclic = temperature, cyclic

    def build(self, past: Profiles, future: Profiles) -> nn.Module:
        self.past, self.future = past, future
        # further than any event before as_of, so that the prediction window's events all lie inside
        self.beyond = future.as_of + int((future.time - future.as_of[future.owner]).max(initial=0)) + 1
        self.lookback = int((past.as_of[past.owner] - past.time).max())
        self.words = NgramEncoder(self.width, BUCKETS)
        self.words.load_state_dict(self.reader.events.text.state_dict())
        wide = 2 * self.width
        self.window, self.user = nn.Linear(wide, wide), nn.Linear(wide, wide)
        self.text = nn.Sequential(
            nn.LayerNorm(self.width), nn.Linear(self.width, wide), nn.GELU(), nn.Linear(wide, wide)
        )
        return nn.ModuleList([self.words, self.window, self.user, self.text])

    def loss(self, rows: Ints, rng: np.random.Generator, progress: float) -> Tensor:
        return self._windows(rows, rng) if progress < SHARE else self._aligned(rows)

    def _windows(self, rows: Ints, rng: np.random.Generator) -> Tensor:
        as_of = self.past.as_of[rows]
        moment = as_of - rng.integers(self.lookback // 4, 3 * self.lookback // 4 + 1, len(rows))
        first, second = collate(self.past, rows, end=moment), collate(self.past, rows, moment, as_of)
        both = torch.nonzero(first.real_BL.any(1) & second.real_BL.any(1)).squeeze(1)
        a_BW, b_BW = (
            F.normalize(self.window(self.reader.pooled(seq, self.reader(seq, self.indexed))), dim=-1)[both]
            for seq in (first, second)
        )
        if len(both) < 2:
            return torch.zeros((), requires_grad=True)
        cross_BB = a_BW @ b_BW.T
        cycle = (cross_BB - cross_BB.T).square().mean() + (a_BW @ a_BW.T - b_BW @ b_BW.T).square().mean()
        loss: Tensor = contrast(a_BW, b_BW, self.temperature) + self.cyclic * cycle / self.temperature**2
        return loss

    def _aligned(self, rows: Ints) -> Tensor:
        rows = rows[self.future.counts[rows] > 0]
        if len(rows) < 2:
            return torch.zeros((), requires_grad=True)
        seq = collate(self.past, rows)
        user_BW = self.user(self.reader.pooled(seq, self.reader(seq, self.indexed)))
        ahead = collate(self.future, rows, end=self.beyond[rows])
        word_BLD = self.words(self.indexed, ahead.text_U)[ahead.text_BL] * ahead.real_BL[..., None]
        text_BW = self.text(word_BLD.sum(1) / ahead.real_BL.sum(1, keepdim=True))
        return contrast(user_BW, text_BW, self.temperature)
