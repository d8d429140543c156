"""Which of some embeddings tells a scenario's classes best: what tuning keeps.

A probe is fitted on training users and scored on validation users: the model has learned from the futures of the
former, so that among themselves all that is learned looks better than it is.

Shapes: R rows, O = 128 width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from qanchor.probe.linear import Probe

MARGIN = 0.01
"""By how much AUC on validation users something else has to be better than what comes first: among a thousand of them
less is chance, and of what a smaller margin promised on public data nothing came true (0010)."""


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
