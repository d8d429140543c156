"""Shards on a Ray cluster: a node that dies in the middle costs time and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daily_world import SHARDS, World, refresh, rows, save_model, some_rows

from qanchor.errors import ConfigError
from qanchor.inference import workers


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, save_model(tmp_path / "model"))
    world.log("all", some_rows(7, range(20)))
    return world


@pytest.mark.usefixtures("one_thread")
def test_one_of_two_nodes_is_killed_in_the_middle(world):
    script = Path(__file__).parent / "cluster.py"
    paths = os.pathsep.join([str(script.parent.parent.parent), str(script.parent.parent), str(script.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    done = subprocess.run(
        [sys.executable, script, world.root, world.model, "12"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads((world.root / "told.json").read_text())
    assert (told["nodes"], told["done"]) == (2, SHARDS)
    assert told["attempts"] == SHARDS + 1  # the shard that died with its node ran again
    assert sorted(report["shard"] for report in told["reports"]) == list(range(SHARDS))
    distributed = rows(world.job(12))
    here = world.job(12, to="here")
    for one, other in zip(refresh(here), sorted(told["reports"], key=lambda report: report["shard"]), strict=True):
        assert other["embedded"] == one.embedded
    assert rows(here) == distributed


def test_without_ray_the_remedy_is_named(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'qanchor\[ray\]'"):
        list(workers.run(lambda *_: None, world.job(12), 1, lambda *_: None, "ray"))
