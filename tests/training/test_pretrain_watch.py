"""What a run shows and warns of, and the log that a killed run goes on with."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_towers
from training_world import SETTINGS, corpora

from qanchor.errors import TrainingError
from qanchor.model import persistence
from qanchor.training import watch
from qanchor.training.checkpoints import Checkpoints, Position
from qanchor.training.journal import Journal
from qanchor.training.pretrain import Pretraining, Step, Validation

LOSSES = ("loss", "contrastive", "ntp", "kept", "positive", "negative", "norm")


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_recall_against_a_slow_reading(k):
    user, text = unit(14, 2, 5), torch.randint(0, 9, (14, 2), generator=torch.Generator().manual_seed(1))
    answer = F.normalize(unit(9, 2, 5, seed=2)[text, torch.arange(2)] + 0.5 * user.mean(0), dim=-1)
    hits = []
    for n in range(2):
        for i in range(14):
            order = sorted(range(14), key=lambda j: -float(user[i, n] @ answer[j, n]))
            ranked = [int(text[j, n]) for j in order if j == i or text[j, n] != text[i, n]]
            hits.append(int(text[i, n]) in ranked[:k])
    assert watch.recall(user, answer, text, k) == pytest.approx(np.mean(hits))


def test_equal_embeddings_find_nothing_and_are_alike():
    same, text = F.normalize(torch.ones(20, 3, 4), dim=-1), torch.arange(20)[:, None].expand(20, 3)
    assert watch.recall(same, same, text, 10) == 0
    assert watch.recall(unit(20, 3, 4), unit(20, 3, 4), text, 1) == 1
    signs = torch.sign(unit(20, 3, 1)) * same  # on one line, though their mean cosine is low
    assert watch.likeness(signs) == pytest.approx(1)
    assert watch.likeness(unit(200, 2, 64)) < 0.15


def step(kept: float = 0.5, masked: bool = True) -> Step:
    return Step("open", 5, 1.0, 1.0, 0.0, kept, 0.3, 0.1, 1.0, masked, 16, 100, 0.1)


def seen(loss: float = 1.0, alike: bool = False, spread: float = 1.0):
    contrast = SimpleNamespace(loss=torch.tensor(loss), plateau=torch.tensor(math.log(3 * 8 - 2)))
    user = F.normalize(torch.ones(8, 2, 4), dim=-1) if alike else unit(8, 2, 4)
    return SimpleNamespace(contrast=contrast, user_BNO=user, spread=torch.tensor(spread))


@pytest.mark.parametrize(
    ("since", "look", "routed", "progress", "said"),
    [
        ([step()], seen(), 0.2, 0.9, None),
        ([step()], seen(loss=math.log(22) + 0.01), 0.2, 0.9, "ln(3B - 2)"),
        ([step(kept=0.005)], seen(), 0.2, 0.9, "keeps 0.5% of the negatives"),
        ([step(kept=0.0, masked=False)], seen(), 0.2, 0.9, None),
        ([step()], seen(alike=True), 0.2, 0.9, "collapse"),
        ([step()], seen(spread=1e-6), 0.2, 0.9, "collapse"),
        ([step()], seen(), 0.005, 0.6, "does not route"),
        ([step()], seen(), 0.005, 0.4, None),
    ],
)
def test_warnings(since, look, routed, progress, said):
    found = list(watch._warnings(since, [look], float(look.contrast.loss), routed, progress))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def run(folder: Path, **changed):
    towers = tiny_towers(live=False)
    settings = SETTINGS.model_copy(update=changed)
    done = list(Pretraining(towers, *corpora(towers), settings, 0, folder).run())
    return towers, done


def log(folder: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_every_validation_is_whole_and_logged(tmp_path):
    _, done = run(tmp_path, mask_after=0.0)
    checks = [d for d in done if isinstance(d, Validation)]
    assert [(c.phase, c.step) for c in checks] == [("align", 3), ("align", 6), ("open", 3), ("open", 6)]
    for check, line in zip(checks, log(tmp_path, "validation"), strict=True):
        assert line["recall_10"] == check.recall_10
        assert 0 <= check.recall_1 <= check.recall_10 <= 1
        assert check.own_minus_swapped <= check.recall_10
        assert 0 < check.gradient_mean < check.gradient_max
        assert check.pairs_per_second > 0
        assert check.tokens_per_second > check.pairs_per_second
        assert 0 < check.mfu < 1
    steps = log(tmp_path, "step")
    assert [line["masked"] for line in steps] == [False] * 6 + [True] * 6
    assert [line["loss"] for line in steps] == [d.loss for d in done if isinstance(d, Step)]


DIES = """
import os, signal, sys
sys.path[:0] = {path}
import torch
torch.set_num_threads(1)
from test_pretrain_watch import *
towers = tiny_towers(live=False)
for done in Pretraining(towers, *corpora(towers), SETTINGS, 0, Path(sys.argv[1])).run():
    if isinstance(done, Step) and (done.phase, done.step) == ("open", 5):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_in_the_middle_and_the_loss_curve_goes_on_bit_for_bit(tmp_path):
    here = Path(__file__).parent
    script = DIES.format(path=[str(here), str(here.parent)])
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "cut")], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert log(tmp_path / "cut", "step")[-1]["at"] == 11
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as torn:
        torn.write('{"kind": "step", "at": 12, "lo')

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole, _ = run(tmp_path / "whole")
    resumed, rest = run(tmp_path / "cut")
    torch.set_num_threads(threads)
    assert sum(isinstance(done, Step) for done in rest) == 3  # from the checkpoint after step 3 of open
    curves = [[[line[name] for name in LOSSES] for line in log(tmp_path / f, "step")] for f in ("whole", "cut")]
    assert curves[0] == curves[1]
    names = ("at", "loss", "best", "recall_1", "recall_10", "own_minus_swapped", "gradient_mean", "gradient_max")
    checks = [[[line[name] for name in names] for line in log(tmp_path / f, "validation")] for f in ("whole", "cut")]
    assert checks[0] == checks[1]
    weights, expected = persistence.weights(resumed), persistence.weights(whole)
    assert all(torch.equal(expected[name], weights[name]) for name in expected)


def test_two_checkpoints_and_the_best_stay_and_a_torn_one_falls_back(tmp_path):
    run(tmp_path)
    assert sorted(path.name.split("-")[0] for path in tmp_path.glob("*-*")) == ["best", "last", "last"]
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.position() == Position("open", 6, checkpoints.position().best)
    newest = max(tmp_path.glob("last-*"), key=lambda path: int(path.name.split("-")[1])) / "state.safetensors"
    with newest.open("r+b") as file:  # as many bytes, but not those that were written
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))
    assert checkpoints.position().step == 3
    newest.unlink()
    assert checkpoints.position().step == 3


def test_a_gradient_that_is_not_finite_stops_before_the_weights_move(tmp_path):
    towers = tiny_towers(live=False)
    pretraining = Pretraining(towers, *corpora(towers), SETTINGS, 0, tmp_path)
    before = {name: tensor.clone() for name, tensor in persistence.weights(towers).items()}
    towers.hierarchy.text_in.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(TrainingError, match=r"gradient (nan|inf) at step 0 of align, users u\d+"):
        list(pretraining.run())
    after = persistence.weights(towers)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tensorboard_and_wandb_get_the_numbers(tmp_path, monkeypatch):
    sent = []
    fake = SimpleNamespace(
        init=lambda **settings: SimpleNamespace(log=lambda numbers, step: sent.append((step, numbers)), finish=list)
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    journal = Journal(tmp_path, 0, {"lr": 1})
    journal.write("step", 1, {"loss": 0.5, "phase": "open"})
    journal.close()
    assert sent == [(1, {"step/loss": 0.5})]
    assert (importlib.util.find_spec("tensorboard") is not None) == (tmp_path / "tensorboard").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match=r"pip install 'qanchor\[track\]'"):
        Journal(tmp_path, 0, {})
