"""CoLES (Babaev et al., SIGMOD 2022) by its own library, pytorch-lifestream: what a bank would take today.

Slices of one user's sequence are to lie close together, those of different users apart. Encoder, slicing, loss and
hard negatives are the library's with the defaults of its own examples; ours is which columns of an event it is given
(category, modality, value, gap, hour, weekday) and the plain loop that trains it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.baselines.sequences import LENGTH, Ints, Kinds
from qanchor.errors import DataError, ModelError
from qanchor.events.profiles import DAY, Profiles

SLICES, SHORTEST = 5, 5
"""Slices a user and step, and the fewest events of one."""
EMBED = 512


class CoLES:
    """`fit` and `embed` as in `Baseline`. The library draws its slices from numpy's global generator."""

    def __init__(self, seed: int = 0, steps: int = 300, batch: int = 48, lr: float = 2e-3, width: int = 128) -> None:
        self.seed, self.steps, self.batch, self.lr, self.width = seed, steps, batch, lr, width

    def fit(self, past: Profiles, future: Profiles) -> CoLES:
        """Raises ModelError without the library, DataError without sequences to slice."""
        ptls = _library()
        self.kinds = Kinds(past)
        kind_E = self.kinds.of(past)
        users = [_columns(past, kind_E, n) for n in np.flatnonzero(past.counts > SHORTEST).tolist()]
        if len(users) < 2:
            raise DataError(f"{len(users)} training profiles hold more than {SHORTEST} events: check `windows`")
        chance = np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            np.random.seed(self.seed)
            self.encoder = self._build(ptls, len(past.modalities))
            self._train(ptls, users)
        np.random.set_state(chance)
        self.encoder.eval()
        return self

    def _build(self, ptls: dict[str, Any], modalities: int) -> Any:
        trx = ptls["TrxEncoder"](
            embeddings={
                "kind": {"in": len(self.kinds) + 1, "out": 32},
                "modality": {"in": modalities + 1, "out": 8},
                "hour": {"in": 25, "out": 8},
                "weekday": {"in": 8, "out": 4},
            },
            numeric_values={"value": "identity", "gap": "identity"},
        )
        return ptls["RnnSeqEncoder"](trx_encoder=trx, input_size=trx.output_size, hidden_size=self.width, type="gru")

    def _train(self, ptls: dict[str, Any], users: list[dict[str, Tensor]]) -> None:
        split = ptls["SampleSlices"](split_count=SLICES, cnt_min=SHORTEST, cnt_max=LENGTH // 2)
        data = ptls["ColesDataset"](users, split)
        head = ptls["Head"](use_norm_encoder=True)
        loss = ptls["ContrastiveLoss"](margin=0.5, sampling_strategy=ptls["HardNegativePairSelector"](neg_count=5))
        optimiser = torch.optim.Adam(self.encoder.parameters(), lr=self.lr)
        rng = np.random.default_rng(self.seed)
        for step in range(self.steps):
            for group in optimiser.param_groups:
                group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            drawn = rng.choice(len(users), min(self.batch, len(users)), replace=False)
            batch, owner = ptls["ColesDataset"].collate_fn([data[n] for n in drawn])
            value = loss(head(self.encoder(batch)), owner)
            optimiser.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
            optimiser.step()

    def embed(self, past: Profiles) -> npt.NDArray[np.float32]:
        """[N, 128]; a user without events is all zeros."""
        collate, kind_E = _library()["collate_feature_dict"], self.kinds.of(past)
        out = np.zeros((len(past), self.width), np.float32)
        before = np.bincount(past.owner[past.time < past.as_of[past.owner]], minlength=len(past))
        order = np.argsort(before, kind="stable")
        order = order[before[order] > 0]
        with torch.inference_mode():
            for at in range(0, len(order), EMBED):
                rows = order[at : at + EMBED]
                out[rows] = self.encoder(collate([_columns(past, kind_E, n) for n in rows.tolist()])).numpy()
        return out


def _columns(past: Profiles, kind_E: Ints, n: int) -> dict[str, Tensor]:
    """One user's newest events before `as_of`; 0 is the library's padding."""
    first, last = past.offsets[n], past.offsets[n + 1]
    stop = int(first + np.searchsorted(past.time[first:last], past.as_of[n]))
    events = slice(max(int(first), stop - LENGTH), stop)
    time, value = past.time[events], np.nan_to_num(past.value[events].astype(np.float64))
    whole = {
        "event_time": time,
        "kind": kind_E[events] + 1,
        "modality": past.modality[events].astype(np.int64) + 1,
        "hour": time % DAY // 3600 + 1,
        "weekday": (time // DAY + 3) % 7 + 1,
    }
    gap = np.diff(time, prepend=time[:1]) / 3600
    numbers = {"value": np.copysign(np.log1p(np.abs(value)), value), "gap": np.log1p(gap)}
    return {name: torch.from_numpy(x.astype(np.int64)) for name, x in whole.items()} | {
        name: torch.from_numpy(x.astype(np.float32)) for name, x in numbers.items()
    }


def _library() -> dict[str, Any]:
    """The parts of pytorch-lifestream that we use, by their names."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ptls.data_load.utils import collate_feature_dict
            from ptls.frames.coles import ColesDataset
            from ptls.frames.coles.losses import ContrastiveLoss
            from ptls.frames.coles.sampling_strategies import HardNegativePairSelector
            from ptls.frames.coles.split_strategy import SampleSlices
            from ptls.nn import RnnSeqEncoder, TrxEncoder
            from ptls.nn.head import Head
    except ImportError:
        raise ModelError("CoLES needs pytorch-lifestream: pip install 'qanchor[bench]'") from None
    parts = (ColesDataset, ContrastiveLoss, HardNegativePairSelector, SampleSlices, RnnSeqEncoder, TrxEncoder, Head)
    return {part.__name__: part for part in parts} | {"collate_feature_dict": collate_feature_dict}
