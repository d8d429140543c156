"""Which mix of its streams tells a scenario's classes best: how much of each its embedding is to hold.

Whether a scenario asks what a user does or how much says what its embedding should be full of, and its labels know. So
every scenario tries a few mixes, and its prompt says the best one in its first numbers (`Towers.shares`). A probe is
fitted on training users and scored on validation users: the model has learned from the futures of the former, so that
among themselves all that is learned looks better than it is.

Shapes: R rows, S streams, O = 128 width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.evaluation.probe import Probe
from qanchor.model.head import STREAMS

MIXES = (STREAMS, (0.1, 1.0, 0.3, 0.1), (0.3, 0.3, 1.0, 0.1))
"""Weights of the streams: balanced, mostly the user token, mostly what the query reads."""
SHARES = torch.tensor(MIXES) / torch.tensor(STREAMS)
MARGIN = 0.004
"""By how much AUC on validation users something else has to be better than what comes first."""
ROWS = 6_000
"""Training users of a scenario that are asked, at most."""


def best(candidates: Sequence[Tensor], class_R: npt.NDArray[np.int64], split_R: npt.NDArray[np.str_]) -> int:
    """Which of some embeddings [R, O] has the probe, of "train" rows, that scores best on "validation" rows; the first,
    unless another is better by `MARGIN`."""
    scores = [_score(embedding_RO, class_R, split_R) for embedding_RO in candidates]
    chosen = int(np.argmax(scores))
    return chosen if scores[chosen] >= scores[0] + MARGIN else 0


def _score(embedding_RO: Tensor, class_R: npt.NDArray[np.int64], split_R: npt.NDArray[np.str_]) -> float:
    """AUC of the probes of all classes, each against the others; their mean."""
    probe = Probe(embedding_RO.float().cpu().numpy(), split_R)
    return float(np.mean([probe.validation_auc(np.float32(class_R == c)) for c in np.unique(class_R)]))
