"""One4all: masked category and time tasks over a user's events (Shin et al., 2021, arXiv 2106.00573).

A transformer reads the sequence with some events masked, and tells the category and the time of those.

The paper leaves open, and ours is: the transformer has two layers; a masked event loses all but its place, and the one
after it does not tell how long ago it was; time is the gap to the event before, in eight steps from
under a minute to over a month; both tasks weigh the same. The paper probes it linearly and by an MLP, and so does the
bench.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.baselines.reader import SequenceBaseline
from qanchor.baselines.sequences import GAP, Ints, Kinds, collate
from qanchor.events.profiles import Profiles
from qanchor.model.backbone import device

GAP_HOURS = (1 / 60, 1, 6, 24, 72, 168, 720)
"""Upper edges of the time classes; one more lies beyond."""


class One4all(SequenceBaseline):
    kind: Literal["gru", "transformer"] = "transformer"

    def __init__(self, seed: int = 0, masked: float = 0.15, **training: Any) -> None:
        """`masked`: share of the events that are masked."""
        super().__init__(seed, **training)
        self.masked = masked

    def build(self, past: Profiles, future: Profiles) -> nn.Module:
        self.past = past
        kinds = Kinds(past)
        self.kind_of = torch.from_numpy(kinds.of(past)).to(device())
        self.edges = torch.log1p(torch.tensor(GAP_HOURS, device=device()))
        self.category = nn.Linear(self.width, len(kinds))
        self.time = nn.Linear(self.width, len(GAP_HOURS) + 1)
        return nn.ModuleList([self.category, self.time])

    def loss(self, rows: Ints, rng: np.random.Generator, progress: float) -> Tensor:
        seq = collate(self.past, rows)
        draw_BL = torch.from_numpy(rng.random(seq.real_BL.shape)).to(seq.real_BL.device).masked_fill(~seq.real_BL, 2)
        masked_BL = (draw_BL < self.masked) | ((draw_BL == draw_BL.amin(1, keepdim=True)) & seq.real_BL)
        state_BL1D = self.reader(seq, self.indexed, masked_BL)
        state_XD = state_BL1D[:, 1:][masked_BL]
        kind_X = self.kind_of[seq.event_BL[masked_BL]]
        gap_X = torch.bucketize(seq.feature_BLF[..., GAP][masked_BL], self.edges)
        return F.cross_entropy(self.category(state_XD), kind_X) + F.cross_entropy(self.time(state_XD), gap_X)
