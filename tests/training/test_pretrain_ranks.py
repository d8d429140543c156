"""One process and two: the same loss, gradients and weights; each rank holds its own users only."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import random_profiles, tiny_towers
from rank import train
from safetensors.torch import load_file
from training_world import corpora, userqa

from qanchor.training.masters import Masters
from qanchor.training.pairs import Pairs
from qanchor.training.ranks import ALONE, Ranks


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folder of a run by two processes, and what each of them found."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    here = Path(__file__).parent
    place |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    command = [sys.executable, str(here / "rank.py"), str(folder)]
    workers = [subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank)}) for rank in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    return folder, [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def test_two_ranks_equal_one_in_loss_gradients_and_weights(two, tmp_path):
    one, (first, second) = train(ALONE, tmp_path), two[1]
    assert one.keys() == first.keys() == second.keys()
    for name, expected in one.items():
        if name != "users":
            assert torch.equal(first[name], second[name]), name
            atol = 2e-5 * expected.abs().max().item() + 1e-7 if "weight" not in name else 2e-5
            torch.testing.assert_close(first[name], expected, rtol=0, atol=atol, msg=lambda m, n=name: n + m)
    assert first["users"] + second["users"] == one["users"]
    assert min(first["users"], second["users"]) > 0


def test_one_rank_writes(two):
    folder, _ = two
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["at"] for line in lines if line["kind"] == "step"] == list(range(1, 7))
    assert sorted(path.name for path in (folder / "run").glob("last-*")) == ["last-0", "last-1"]


class Half(Ranks):
    """Rank 0 of two, without a process group."""

    size = 2


def test_a_rank_draws_the_same_batch_and_knows_its_own_users_and_texts_only():
    towers = tiny_towers()
    (whole, _), (half, _) = corpora(towers), corpora(towers, Half())
    assert 0 < len(half.profiles) < len(whole.profiles)
    assert set(half.pairs.answers) < set(whole.pairs.answers)
    everyone, own = (c.pairs.draw(np.random.default_rng(3), 12, 2) for c in (whole, half))
    assert (everyone.topic_BN == own.topic_BN).all()
    assert 0 < len(own.place_L) < 12
    assert (everyone.text_LN[own.place_L] == own.text_LN).all()
    users = whole.profiles.user_ids[everyone.profile_L[own.place_L]]
    assert users.tolist() == half.profiles.user_ids[own.profile_L].tolist()


def test_mixed_batches_ask_users_questions_of_their_own():
    profiles = random_profiles(30)
    frame = userqa(profiles).filter((pl.col("topic") != "rent") | (pl.col("user_id") != "u3"))
    drawn = Pairs(frame, profiles.keys(), profiles).draw(np.random.default_rng(0), 40, 2, mixed=True)
    assert drawn.topic_BN.shape == (30, 2)
    assert (drawn.topic_BN[:, 0] != drawn.topic_BN[:, 1]).all()
    assert len(np.unique(drawn.topic_BN[:, 0])) == 3
    (third,) = drawn.topic_BN[profiles.user_ids[drawn.profile_L] == "u3"]
    assert set(third) == {0, 1}  # coffee and concert, never rent


def test_the_gradient_of_a_model_without_soft_prompt_is_told():
    masters = Masters(model := torch.nn.ParameterList([torch.zeros(0, 4), torch.ones(2)]))
    (model[1].square().sum() + model[0].sum()).backward()
    masters.collect()
    assert masters.gradient() == (2.0, 2.0)
