"""Which prompt a scenario keeps: by probes on users whom the probe has not seen."""

from __future__ import annotations

import numpy as np
import torch

from qanchor.training import choice


def test_what_is_told_best_is_chosen_and_the_first_where_nothing_is_clearly_better():
    rng = np.random.default_rng(0)
    class_R = rng.integers(0, 2, 600)
    split_R = np.repeat(["train", "validation"], 300)
    signal = torch.from_numpy(class_R[:, None] + rng.normal(0, 1, (600, 1))).float()
    noise = torch.from_numpy(rng.normal(0, 1, (600, 7))).float()
    weak, strong = torch.cat([0.2 * signal, noise], 1), torch.cat([signal, 0.1 * noise], 1)
    nothing = torch.from_numpy(rng.normal(0, 1, (600, 8))).float()
    assert choice.best([nothing, weak, nothing], class_R, split_R) == 1
    assert choice.best([strong, strong, strong], class_R, split_R) == 0  # level: the first stays
    assert choice.best([nothing, strong], class_R, split_R) == 1


def test_what_training_users_have_by_heart_wins_nothing():
    rng = np.random.default_rng(1)
    class_R = rng.integers(0, 2, 800)
    trained_R = np.arange(800) < 400
    honest = torch.from_numpy(class_R[:, None] + rng.normal(0, 2, (800, 4))).float()
    by_heart = torch.from_numpy(np.where(trained_R, class_R, rng.random(800))[:, None] + rng.normal(0, 0.1, (800, 4)))
    split_R = np.where(trained_R, "train", "validation")
    assert choice.best([honest, by_heart.float()], class_R, split_R) == 0
