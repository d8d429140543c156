"""CPC: contrastive predictive coding (van den Oord et al., 2018, arXiv 1807.03748) over a user's events.

A GRU sums up the events until t as c_t; z_(t+k), the event k further on, is to be told from other events by
z' W_k c_t (Eq. 3), and InfoNCE (Eq. 4) is taken for each k.

The paper leaves open, and ours is: k = 1 ... `reach`; the negatives are the events k after the other anchors of a
batch, 256 anchors drawn among all (user, t); both sides of the product have unit length, over a temperature, since raw
products of a small network take long to come to a useful scale; and the z that is to be told knows nothing of time,
since the age of an event alone would give it away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.baselines.reader import SequenceBaseline
from qanchor.baselines.sequences import FEATURES, VALUE, Ints, collate
from qanchor.events.profiles import Profiles
from qanchor.model.backbone import device

ANCHORS = 256
TEMPERATURE = 0.1


class CPC(SequenceBaseline):
    def __init__(self, seed: int = 0, reach: int = 4, **training: Any) -> None:
        """`reach`: how many events ahead are predicted."""
        super().__init__(seed, **training)
        self.reach = reach

    def build(self, past: Profiles, future: Profiles) -> nn.Module:
        self.past = past
        self.timeless = torch.zeros(FEATURES, device=device())
        self.timeless[VALUE] = 1
        self.ahead = nn.ModuleList(nn.Linear(self.width, self.width, bias=False) for _ in range(self.reach))
        return self.ahead

    def loss(self, rows: Ints, rng: np.random.Generator, progress: float) -> Tensor:
        seq = collate(self.past, rows)
        state_BL1D = self.reader(seq, self.indexed)
        z_BLD = self.reader.events(seq, self.indexed, seq.feature_BLF * self.timeless)
        losses = []
        for k, predict in enumerate(self.ahead):
            # state t has read the events before t, so that event t + k is k + 1 ahead of the last one read
            user, event = (x.cpu().numpy() for x in torch.nonzero(seq.real_BL[:, k:], as_tuple=True))
            drawn = rng.permutation(len(user))[:ANCHORS]
            if len(drawn) < 2:
                continue
            b, t = torch.from_numpy(user[drawn]), torch.from_numpy(event[drawn])
            told_AD = F.normalize(predict(state_BL1D[b, t]), dim=-1)
            logit_AA = told_AD @ F.normalize(z_BLD[b, t + k], dim=-1).T / TEMPERATURE
            losses.append(F.cross_entropy(logit_AA, torch.arange(len(drawn), device=logit_AA.device)))
        return torch.stack(losses).mean()
