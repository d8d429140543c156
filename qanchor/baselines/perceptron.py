"""A multilayer perceptron in the place of the linear probe, as One4all is judged in its paper.

One hidden layer of 64; the step with the best validation AUC is kept. Features are standardised by the training rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

Array = npt.NDArray[np.float32]

HIDDEN, STEPS, BATCH, LR, DECAY = 64, 600, 256, 2e-3, 1e-2
CHECK = 50
"""Steps between looks at the validation rows."""
REACH = 3.0
"""Standardised features are cut here, as for the linear probe."""


class Perceptron:
    """`fit` and `score` as in `Classifier`."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, X: Array, y: Array, X_validation: Array, y_validation: Array) -> Perceptron:
        self.mean, deviation = X.mean(0), X.std(0)
        self.scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
        x, target = self._ready(X), torch.from_numpy(y)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = nn.Sequential(nn.Linear(X.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(HIDDEN, 1))
            optimiser = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=DECAY)
            best = -np.inf
            for step in range(1, STEPS + 1):
                rows = torch.randint(len(x), (BATCH,))
                loss = F.binary_cross_entropy_with_logits(net.train()(x[rows])[:, 0], target[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                if step % CHECK == 0:
                    self.net = net.eval()
                    auc = roc_auc_score(y_validation, self.score(X_validation))
                    if auc > best:
                        best, kept = auc, {name: tensor.clone() for name, tensor in net.state_dict().items()}
        net.load_state_dict(kept)
        return self

    def score(self, X: Array) -> Array:
        with torch.inference_mode():
            answer: Array = self.net(self._ready(X))[:, 0].numpy()
        return answer

    def _ready(self, X: Array) -> torch.Tensor:
        return torch.from_numpy(np.clip((X - self.mean) * self.scale, -REACH, REACH).astype(np.float32))
