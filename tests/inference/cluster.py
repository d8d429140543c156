"""`cluster.py ROOT MODEL DAY`: a refresh on a Ray cluster of two nodes, one of which is killed in the middle.

Leaves in ROOT/told.json the shards' reports and how many attempts each shard took. A process of its own: Ray's many
children and warnings stay out of the tests.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import ray
from daily_world import SHARDS, World, refresh_shard
from ray.cluster_utils import Cluster

from qanchor.inference import workers


def slow_refresh(job, shard):
    """Leaves a note of where it began. First attempts wait for the death of the second node, where they never end."""
    notes = job.profiles.parent / "attempts"
    node = ray.get_runtime_context().get_node_id()
    first = not list(notes.glob(f"{shard}-*"))
    (notes / f"{shard}-{time.time_ns()}").write_text(node)
    while node == (notes / "doomed").read_text() or (first and not (notes / "killed").exists()):
        time.sleep(0.05)
    return refresh_shard(job, shard)


def kill_when_both_work(cluster, node, notes: Path) -> None:
    while len(list(notes.glob("*-*"))) < SHARDS:
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    (notes / "killed").touch()


if __name__ == "__main__":
    world, day = World(Path(sys.argv[1]), Path(sys.argv[2])), int(sys.argv[3])
    job = world.job(day)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    (job.profiles.parent / "attempts").mkdir(parents=True)
    (job.profiles.parent / "attempts" / "doomed").write_text(second.node_id)
    killer = threading.Thread(
        target=kill_when_both_work, args=(cluster, second, job.profiles.parent / "attempts"), daemon=True
    )
    killer.start()
    told = []
    reports = list(workers.run(slow_refresh, job, SHARDS, lambda done, note: told.append(done), "ray"))
    notes = [path for path in (job.profiles.parent / "attempts").iterdir() if "-" in path.name]
    nodes = {path.read_text() for path in notes}
    found = {"reports": [asdict(r) for r in reports], "attempts": len(notes), "nodes": len(nodes), "done": sum(told)}
    (world.root / "told.json").write_text(json.dumps(found))
    ray.shutdown()
    cluster.shutdown()
    os._exit(0)
