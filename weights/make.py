"""The weights that ship with the package: `python weights/make.py`.

Pretrains the embedded model on simulated wallets of seeds that no demo, test or benchmark uses, each with its logs kept
in another way (`worlds.py`), and writes `qanchor/weights/qanchor-small`: weights in bf16, tokenizer, card and log.
Validation is on a world of its own. Stopped, it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from rich.console import Console
from worlds import World, make

from qanchor.config import Pretrain
from qanchor.model import persistence
from qanchor.model.towers import Towers
from qanchor.stages import Stages
from qanchor.training.corpus import Corpus
from qanchor.training.objective import Objective
from qanchor.training.pairs import PairBatch, Pairs
from qanchor.training.pretrain import Pretraining, Step, Validation
from qanchor.training.ranks import ALONE
from qanchor.useru.survey import Survey

FIRST_SEED = 1_000
OUT = Path(__file__).parent.parent / "qanchor" / "weights" / "qanchor-small"


class Worlds(Pretraining):
    """Pretraining that takes its steps in many worlds, in turn."""

    def __init__(
        self, towers: Towers, corpora: list[Corpus], validation: Corpus, settings: Pretrain, folder: Path
    ) -> None:
        super().__init__(towers, corpora[0], validation, settings, 0, folder)
        self.objectives = [Objective(towers, corpus, settings, ALONE) for corpus in corpora]

    def _draw(self, phase: str, step: int, users: int | None = None) -> PairBatch:
        self.objective = self.objectives[step % len(self.objectives)]
        self.train = self.objective.corpus
        return super()._draw(phase, step, users)


def survey(world: World, seed: int) -> pl.DataFrame:
    """UserU of one world."""
    told = Survey(world.config, world.past, world.future, seed)
    columns = ("user_id", "as_of", "topic", "query", "answer", "cohort")
    return pl.concat([told.part(number).pairs.select(columns) for number in range(told.parts)])


def corpus(towers: Towers, world: World, pairs: pl.DataFrame, training: bool) -> Corpus:
    profiles = world.past.take(np.flatnonzero(world.training == training))
    kept = np.array([world.config.modality(name).events for name in profiles.modalities], np.int64)
    texts = towers.text_encoder.index(profiles.texts.described)
    return Corpus.of(towers, profiles, Pairs(pairs, profiles.keys(), profiles), kept, texts)


def run(arguments: argparse.Namespace) -> None:
    console = Console()
    worlds = [make(arguments.work, FIRST_SEED + n, arguments.users) for n in range(arguments.worlds + 1)]
    pairs = [survey(world, n) for n, world in enumerate(worlds)]
    for world, told in zip(worlds, pairs, strict=True):
        windows = world.config.windows
        console.print(
            f"{len(world.past):,} profiles, {len(world.past.time):,} events, {len(told):,} pairs: "
            f"{', '.join(world.past.modalities)}; {windows.lookback_days} + {windows.predict_days} days"
        )
    torch.manual_seed(0)
    spoken = pl.concat([told.sample(min(len(told), 60_000), seed=0) for told in pairs])
    towers = persistence.build(worlds[0].config, [*spoken["query"].unique(), *spoken["answer"].unique()])
    corpora = [corpus(towers, world, told, True) for world, told in zip(worlds[1:], pairs[1:], strict=True)]
    validation = corpus(towers, worlds[0], pairs[0], False)
    settings = worlds[0].config.training.pretrain.model_copy(
        update={"align_steps": arguments.align, "steps": arguments.open, "validate_every": 200, "lr": arguments.lr}
    )
    training = Worlds(towers, corpora, validation, settings, arguments.work / "checkpoints")
    with Stages(arguments.work, console).progress("pretrain", arguments.align + arguments.open) as advance:
        for done in training.run():
            if isinstance(done, Step):
                advance(1, f"{done.phase} loss {done.loss:.3f}")
            elif isinstance(done, Validation):
                console.print(done)
    persistence.adapt(towers, worlds[0].config)
    ship(towers, arguments, worlds)
    log = (arguments.work / "checkpoints" / "metrics.jsonl").read_text().splitlines()
    thinned = [line for line in log if '"validation"' in line or json.loads(line)["at"] % 20 == 0]
    (OUT / "log.jsonl").write_text("\n".join(thinned) + "\n")


def ship(towers: Towers, arguments: argparse.Namespace, worlds: list[World]) -> None:
    users = sum(len(np.unique(world.past.user_ids)) for world in worlds[1:])
    card = (
        "---\nlibrary_name: qanchor\nlicense: apache-2.0\nlanguage: [en, zh]\n---\n# qanchor-small\n\n"
        f"The embedded model, pretrained on UserU of {arguments.worlds} simulated wallets ({users:,} users) whose logs "
        "are kept in as many ways: other names for modalities, some missing or merged, other templates, windows and "
        "rates, in English and Chinese. No real person's data was used. Seeds: "
        f"{FIRST_SEED} (validation) to {FIRST_SEED + arguments.worlds}; no demo, test or benchmark uses them.\n\n"
        f"Made by `python {' '.join(sys.argv)}`; `log.jsonl` is its log.\n"
    )
    towers.to(torch.bfloat16)
    persistence.save(towers, OUT, card)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/weights"))
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--users", type=int, default=2_500)
    parser.add_argument("--align", type=int, default=2_400)
    parser.add_argument("--open", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3)
    run(parser.parse_args())
