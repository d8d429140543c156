"""One of two processes: the gradient of a batch and three steps of either phase, for test_pretrain_ranks.py.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=... python rank.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from conftest import tiny_towers
from safetensors.torch import save_file
from training_world import SETTINGS, corpora

from qanchor.model import persistence
from qanchor.training.masters import Masters
from qanchor.training.objective import Objective
from qanchor.training.pretrain import Pretraining
from qanchor.training.ranks import Ranks, join

RUN = SETTINGS.model_copy(update={"align_steps": 3, "steps": 3, "batch": 12, "mask_after": 0.0})


def train(ranks: Ranks, folder: Path) -> dict[str, torch.Tensor]:
    """What this rank found: gradients, weights after the run, and how many users it held."""
    found = {}
    towers = tiny_towers()
    train, _ = corpora(towers, ranks)
    for phase, chunk in (("align", None), ("open", None), ("open", 300)):
        settings, masters = RUN.model_copy(update={"chunk": chunk}), Masters(towers)
        drawn = train.pairs.draw(np.random.default_rng(5), RUN.batch, RUN.pairs)
        loss = Objective(towers, train, settings, ranks).backward(drawn, phase == "align", True, masters, 0).loss
        found[f"{phase} {chunk} loss"] = loss
        found |= {f"{phase} {chunk} {n}": p.grad for n, p in towers.named_parameters() if p.grad is not None}
        masters.publish()
    towers = tiny_towers(live=False)
    for _ in Pretraining(towers, *corpora(towers, ranks), RUN, 0, folder / "run", ranks).run():
        pass
    found |= {f"weight {name}": tensor for name, tensor in persistence.weights(towers).items()}
    return found | {"users": torch.tensor(len(train.profiles))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks = join()
    out = Path(sys.argv[1])
    save_file({n: t.clone().contiguous() for n, t in train(ranks, out).items()}, out / f"{ranks.rank}.safetensors")
