"""MSDP: multi-scale stochastic distribution prediction (Fu et al., CIKM 2023).

From the events until a random moment, the *distribution* of behaviours in the window that follows is predicted; its
length is drawn, too, and told to the predictor as a prompt. Beside it, a view of the user with events left out at
random is to have a like embedding.

The paper leaves open, and ours is: behaviours are event categories, and one more for "nothing at all"; the moment is
uniform between the middle of the lookback window and `as_of`, so that windows reach into the training users' prediction
window, and never further; lengths are 1, 3, 7, 14 or 30 days; the loss is the cross-entropy with the
window's shares; a view leaves out a quarter of the events, and consistency is InfoNCE at weight 0.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.baselines.reader import SequenceBaseline, contrast
from qanchor.baselines.sequences import Ints, Kinds, Sequences, collate, joined
from qanchor.events.profiles import DAY, Profiles
from qanchor.model.backbone import device

DAYS = np.array([1, 3, 7, 14, 30])
LEFT_OUT = 0.25
TEMPERATURE = 0.1


class MSDP(SequenceBaseline):
    def __init__(self, seed: int = 0, consistency: float = 0.1, **training: Any) -> None:
        """`consistency`: weight of the views' term."""
        super().__init__(seed, **training)
        self.consistency = consistency

    def build(self, past: Profiles, future: Profiles) -> nn.Module:
        self.events = joined(past, future)
        kinds = Kinds(past)
        self.kind_of, self.kinds = torch.from_numpy(kinds.of(self.events)).to(device()), len(kinds) + 1
        self.lookback = int((past.as_of[past.owner] - past.time).max())
        self.horizon = int((future.time - future.as_of[future.owner]).max(initial=0)) + 1
        self.prompt = nn.Embedding(len(DAYS), 2 * self.width)
        self.predict = nn.Sequential(
            nn.Linear(2 * self.width, 2 * self.width), nn.GELU(), nn.Linear(2 * self.width, self.kinds)
        )
        return nn.ModuleList([self.prompt, self.predict])

    def loss(self, rows: Ints, rng: np.random.Generator, progress: float) -> Tensor:
        as_of = self.events.as_of[rows]
        moment = as_of - rng.integers(0, self.lookback // 2 + 1, len(rows))
        length = rng.integers(0, len(DAYS), len(rows))
        stop = np.minimum(moment + DAYS[length] * DAY, as_of + self.horizon)
        seq = collate(self.events, rows, end=moment)
        user_BW = self.reader.pooled(seq, self.reader(seq, self.indexed))
        logit_BK = self.predict(user_BW + self.prompt(torch.from_numpy(length).to(user_BW.device)))
        prediction = F.cross_entropy(logit_BK, self._shares(rows, moment, stop))
        view = self._view(seq, rng)
        view_BW = self.reader.pooled(view, self.reader(view, self.indexed))
        return prediction + self.consistency * contrast(user_BW, view_BW, TEMPERATURE)

    def _shares(self, rows: Ints, start: Ints, stop: Ints) -> Tensor:
        """[B, K] share of each kind among the events of a window; the last column is 1 where there are none."""
        ahead = collate(self.events, rows, start, stop)
        share_BK = torch.zeros(len(rows), self.kinds, device=self.kind_of.device)
        b, place = torch.nonzero(ahead.real_BL, as_tuple=True)
        kind = self.kind_of[ahead.event_BL[b, place]]
        share_BK.index_put_((b, kind), share_BK.new_ones(len(b)), accumulate=True)
        share_BK[:, -1] = (share_BK.sum(1) == 0).float()
        return share_BK / share_BK.sum(1, keepdim=True)

    def _view(self, seq: Sequences, rng: np.random.Generator) -> Sequences:
        """The sequences with some events left out; those that stay close up."""
        drawn_BL = torch.from_numpy(rng.random(seq.real_BL.shape) >= LEFT_OUT)
        stays_BL = seq.real_BL & drawn_BL.to(seq.real_BL.device)
        order_BL = (~stays_BL).int().argsort(dim=1, stable=True)

        def moved(x_BL: Tensor) -> Tensor:
            return x_BL.gather(1, order_BL)

        wide_BLF = order_BL[..., None].expand_as(seq.feature_BLF)
        return replace(
            seq,
            text_BL=moved(seq.text_BL),
            modality_BL=moved(seq.modality_BL),
            feature_BLF=seq.feature_BLF.gather(1, wide_BLF),
            real_BL=moved(stays_BL),
            event_BL=moved(seq.event_BL),
        )
