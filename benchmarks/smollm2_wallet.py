"""SmolLM2-135M on a small wallet, own query against another one's: `python benchmarks/smollm2_wallet.py FOLDER`.

FOLDER is the checkpoint that benchmarks/smollm2.py makes. Three starts are trained on UserU of the same few hundred
users: all of SmolLM2 with LoRA, its first six layers with LoRA, and its first six layers whole, as the start of a
small body. Each is then probed on users and days that it has not seen: `base` by the scenario's own query, `swapped`
by another one's (what `base` has above it is what the query is worth), beside hand-made `counts`. Prints a table and
writes benchmarks/results/smollm2_wallet.json. Stopped and started again, it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from qanchor import config
from qanchor.baselines.counts import Counts
from qanchor.datasets import wallet
from qanchor.evaluation.judge import judge
from qanchor.evaluation.results import Results
from qanchor.inference.engine import QAnchor
from qanchor.pipeline import Project
from qanchor.stages import Stages

RESULT = Path(__file__).parent / "results" / "smollm2_wallet.json"
EVENTS = 6
"""Event tokens kept of each modality: short prefixes, since steps are what a CPU lacks."""
VALIDATE_EVERY = 30
"""Steps between checkpoints: what a kill costs at most."""
CHUNK = 3_000
"""Tokens of a pass: a batch at once would take 10 GB."""
STARTS: dict[str, tuple[dict[str, Any], int]] = {
    "whole, LoRA": ({}, 60),
    "first 6, LoRA": ({"first_layers": 6}, 100),
    "first 6, trained whole": ({"first_layers": 6, "lora": None}, 100),
}
"""Name -> what of the recipe's model differs, and steps: a quarter to half an hour each on two cores of their own."""


def project(raw: Path, out: Path, model: dict[str, Any], steps: int) -> Project:
    """The wallet in `raw` by the recipe, under settings that differ from it."""
    data = yaml.safe_load((raw / "qanchor.yaml").read_text(encoding="utf-8"))
    modalities = {source["modality"]: {"events": EVENTS} for source in data["sources"]}
    modalities["tabular"]["lookback_days"] = 31
    pretrain = {"steps": steps, "validate_every": VALIDATE_EVERY, "chunk": CHUNK}
    data |= {"recipe": "smollm2-135m", "modalities": modalities, "training": {"pretrain": pretrain}, "model": model}
    return Project(config.parse(data, raw.resolve()), Stages(out, Console(stderr=True)))


def probe(project: Project) -> Results:
    """`counts`, `base` and `swapped` of every scenario."""
    names = list(project.config.scenarios)
    model = QAnchor.from_pretrained(project.out / "model")
    with project.stages.progress("embed", len(project.past)) as advance:
        queries = [project.config.scenarios[name].query for name in names]
        embedding_NGO = model.embed(project.past, queries=queries, progress=lambda n: advance(n, ""))
    base = {name: embedding_NGO[:, g] for g, name in enumerate(names)}
    split, users = (project.requests[column].to_numpy().astype(str) for column in ("split", "user_id"))
    counts = Counts().fit(project.past.take(project.rows("train"))).embed(project.past)
    return judge(project.config, {"base": base}, counts, project.labels, None, split, users)


def main(backbone: Path, out: Path, users: int, steps: int | None, starts: list[str]) -> None:
    raw = out / "raw"
    if not (raw / "qanchor.yaml").exists():
        wallet.prepare(raw, users=users)
    done = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in starts:
        model, default = STARTS[name]
        model = model | {"backbone": str(backbone.resolve())}
        started = project(raw, out / name.replace(",", "").replace(" ", "-"), model, steps or default)
        started.pretrain()
        results = probe(started)
        done[name] = {
            "users": users,
            "steps": started.config.training.pretrain.steps,
            "hardware": results.hardware,
            "date": results.date,
            "seconds": started.stages.seconds["pretrain"],
            **{key: results.as_json()[key] for key in ("average", "scenarios")},
        }
        RESULT.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    show(done)


def show(done: dict[str, Any]) -> None:
    table = Table("start", "users", "steps", "s a step", "counts", "base", "swapped", title="AUC, average of scenarios")
    for name, row in done.items():
        auc = [f"{row['average'][column]['auc']:.3f}" for column in ("counts", "base", "swapped")]
        table.add_row(name, str(row["users"]), str(row["steps"]), f"{row['seconds'] / row['steps']:.2f}", *auc)
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--steps", type=int, help="left out, what each start has by default")
    parser.add_argument("--start", action="append", choices=STARTS, help="one of them only; may be repeated")
    arguments = parser.parse_args()
    main(arguments.backbone, arguments.out, arguments.users, arguments.steps, arguments.start or list(STARTS))
