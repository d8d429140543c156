"""The same model behind LitServe: one user and one question a request, batched by LitServe. For `serving.py --against`.

    python benchmarks/litserved.py runs/demo/raw/qanchor.yaml runs/demo --port 8100 --keep 100000

Profiles lie in memory, and so do the prefixes of the `--keep` users read last. There are no keys, no audit and no
events since: less than what `qanchor serve` does for a request.
"""

from __future__ import annotations

import argparse
import base64
from collections import OrderedDict
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import polars as pl
from rich.console import Console

from qanchor.daily import Daily
from qanchor.inference.engine import QAnchor
from qanchor.inference.reading import Reading
from qanchor.inference.snapshot import Snapshot
from qanchor.pipeline import Project
from qanchor.serving.batcher import LARGEST, PATIENCE
from qanchor.serving.world import refreshed


class Users(litserve.LitAPI):
    def __init__(self, config: Path, run: Path, keep: int) -> None:
        super().__init__(max_batch_size=LARGEST, batch_timeout=PATIENCE)
        self.config, self.run, self.keep = config, run, keep

    def setup(self, device: str) -> None:
        daily = Daily(Project.open(self.config, self.run, Console(quiet=True)))
        self.model = QAnchor.from_pretrained(self.run / "model")
        snapshot, name = newest(daily), next(iter(daily.project.config.scenarios))
        users = [u for s in range(daily.project.config.shards) for u in snapshot.read(name, s)[0].to_pylist()]
        keys = pl.DataFrame({"user_id": users}).with_columns(as_of=pl.lit(snapshot.as_of).cast(pl.Datetime("us")))
        self.profiles = daily.project.store.profiles(keys)
        self.row = {user: n for n, user in enumerate(users)}
        self.readings: OrderedDict[str, Reading] = OrderedDict()

    def decode_request(self, request: dict[str, str]) -> tuple[str, str]:
        return request["user_id"], request["query"]

    def batch(self, inputs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return inputs

    def predict(self, asked: list[tuple[str, str]]) -> list[Any]:
        found = {user: self.readings[user] for user, _ in asked if user in self.readings}
        if cold := [user for user in dict.fromkeys(user for user, _ in asked) if user not in found]:
            rows = np.array([self.row[user] for user in cold])
            found |= dict(zip(cold, self.model.read(self.profiles.take(rows)), strict=True))
        self.readings |= found
        while len(self.readings) > self.keep:
            self.readings.popitem(last=False)
        out: list[Any] = [None] * len(asked)
        for query in dict.fromkeys(query for _, query in asked):
            own = [n for n, (_, other) in enumerate(asked) if other == query]
            embedding_N1O = self.model.ask([found[asked[n][0]] for n in own], queries=[query])
            for n, embedding_O in zip(own, embedding_N1O[:, 0], strict=True):
                out[n] = embedding_O
        return out

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> dict[str, str]:
        return {"embedding": base64.b64encode(output.tobytes()).decode()}


def newest(daily: Daily) -> Snapshot:
    return Snapshot(daily.snapshots, max(state.as_of for state in refreshed(daily).values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--keep", type=int, required=True)
    given = parser.parse_args()
    api = Users(given.config, given.run, given.keep)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning")
