"""What every baseline is: fitted on training users, it embeds any; and what stands in for a probe where there is none.

Shapes: N profiles, W features.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from qanchor.events.profiles import Profiles

Array = npt.NDArray[np.float32]


class Baseline(Protocol):
    """`Method(seed=..., **settings).fit(training_past, training_future).embed(any_past)`."""

    def fit(self, past: Profiles, future: Profiles) -> Baseline:
        """Learn from the training users' lookback windows, and from their prediction windows where the method does.

        Rows of both are the same (user, as_of). Labels are never seen. The same seed and the same profiles give the
        same embeddings.

        Raises:
            DataError: there is nothing to learn from.
        """
        ...

    def embed(self, past: Profiles) -> Array:
        """[N, W] of any N profiles, finite; each by its own events before `as_of` alone, in whatever company."""
        ...


class Classifier(Protocol):
    """What judges features in the place of the linear probe: no embedding for others, one answer to one question."""

    def fit(self, X: Array, y: Array, X_validation: Array, y_validation: Array) -> Classifier:
        """Features [N, W] and labels [N] of 0 and 1, both present; validation rows choose, and are not fitted."""
        ...

    def score(self, X: Array) -> Array:
        """[N] higher for likelier positives."""
        ...
