"""Which mix of its streams tells a scenario's classes best: how much of each, before a prompt is tuned.

Whether a scenario asks what a user does or how much says what its embedding should be full of, and its labels know. So
every scenario tries a few mixes, and its prompt starts with the best one in its first numbers (`Towers.shares`). A
probe is fitted on training users and scored on validation users: the model has learned from the futures of the former,
so that among themselves all that is learned looks better than it is.

Shapes: R rows, S streams, O = 128 width of an embedding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.evaluation.probe import Probe
from qanchor.model.head import STREAMS, Head

MIXES = ((0.1, 1.0, 0.3, 0.1), STREAMS, (0.3, 0.3, 1.0, 0.1))
"""Weights of the streams: mostly the user token, balanced, mostly what the query reads."""
ROWS = 6_000
"""Training users of a scenario that are asked, at most."""


def best(head: Head, stream_RSO: Tensor, class_R: npt.NDArray[np.int64], split_R: npt.NDArray[np.str_]) -> Tensor:
    """[S] the mix of `MIXES`, as shares of `STREAMS`, whose probes on "train" rows score best on "validation" rows."""
    share_XS = (torch.tensor(MIXES) / torch.tensor(STREAMS)).to(stream_RSO.device)
    scores = [_score(head.mix(stream_RSO, share_S), class_R, split_R) for share_S in share_XS]
    return share_XS[int(np.argmax(scores))]


def _score(embedding_RO: Tensor, class_R: npt.NDArray[np.int64], split_R: npt.NDArray[np.str_]) -> float:
    """AUC of the probes of all classes, each against the others; their mean."""
    probe = Probe(embedding_RO.float().cpu().numpy(), split_R)
    return float(np.mean([probe.validation_auc(np.float32(class_R == c)) for c in np.unique(class_R)]))
