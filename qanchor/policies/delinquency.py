"""Whom to score as delinquent: a cut-off by what errors cost, a lift table, and what the model looked at.

Shapes: N users, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[Any]


@dataclass(frozen=True)
class Costs:
    """Of the two errors, in one currency."""

    miss: float = 10.0
    """A delinquent user who is not flagged."""
    alarm: float = 1.0
    """A good user who is."""

    def per_user(self, label: Vector, flagged: Vector) -> float:
        """Mean cost of flagging `flagged` [N] bool where `label` [N] of 0 and 1 came true."""
        bad = label > 0
        return float(np.mean(self.miss * (bad & ~flagged) + self.alarm * (~bad & flagged)))


@dataclass(frozen=True)
class Tenth:
    """A tenth of the users, by score."""

    users: int
    positives: int
    rate: float
    lift: float
    """Its rate over everybody's."""
    captured: float
    """Share of all positives in this tenth and those above it."""


def cut_off(label: Vector, score: Vector, costs: Costs) -> float:
    """The score from which on flagging costs least on these users; infinity where flagging nobody does.

    `label` [N] of 0 and 1, `score` [N]. Users of one score are flagged together; of equally cheap cut-offs the highest.
    """
    order = np.argsort(-score, kind="stable")
    gain = np.cumsum(np.where(label[order] > 0, costs.miss, -costs.alarm))
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    best = ends[np.argmax(gain[ends])]
    return float(score[order][best]) if gain[best] > 0 else float("inf")


def lift_table(label: Vector, score: Vector, parts: int = 10) -> list[Tenth]:
    """Users in `parts` equal parts by falling score (ties as they come), each with its rate against everybody's."""
    positive = label[np.argsort(-score, kind="stable")] > 0
    total, rate = int(positive.sum()), float(positive.mean())
    table, captured = [], 0
    for part in np.array_split(positive, parts):
        captured += int(part.sum())
        own = float(part.mean())
        table.append(Tenth(len(part), int(part.sum()), own, own / rate, captured / total))
    return table


def reasons(share: Vector, usual: Vector, modalities: Sequence[str]) -> list[str]:
    """[N] the modality that the model looks at most beyond the usual.

    `share` [N, M] of the attention of `<USER_EMB>` of each user, `usual` [M] that of everybody. It says where the model
    looked, not what would have changed its mind.
    """
    return [modalities[m] for m in (share - usual).argmax(1)]
