"""Cluster-based soft prompt tuning (section 3.2.3, Eq. 7): six vectors a scenario, everything else frozen.

A user's prefix does not depend on the scenario, so it is computed once and kept (tokens and KV); each step runs only
suffixes, of all scenarios at once. Every scenario draws its own users, half of each class, so that rare positives
are seen; the shared prompt of pretraining is where every scenario starts, and it stays where validation users say
that nothing better was found.

Shapes: G scenarios, B users of a scenario's batch, R = G * B rows of a step, K prompt vectors, D width, O = 128.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from qanchor.config import Tune
from qanchor.errors import TrainingError
from qanchor.model import losses
from qanchor.model.prefixes import PrefixCache
from qanchor.model.towers import Tokens, Towers
from qanchor.training.checkpoints import Checkpoints, Position
from qanchor.training.pretrain import autocast

CLASSES = 2
CHUNK = 512
"""Users embedded at once when scoring."""


@dataclass(frozen=True)
class Labelled:
    """A scenario's labelled users: rows of the prefix cache and their 0/1 labels."""

    train_row: npt.NDArray[np.int64]
    train_label: npt.NDArray[np.int64]
    validation_row: npt.NDArray[np.int64]
    validation_label: npt.NDArray[np.int64]

    @property
    def lacking(self) -> str:
        """Why there is nothing to tune on; empty where both classes are seen in training and validation."""
        for split, label in (("training", self.train_label), ("validation", self.validation_label)):
            if len(np.unique(label)) < CLASSES:
                return f"only one class among its {len(label)} {split} users, expected both"
        return ""


@dataclass(frozen=True)
class TuneStep:
    step: int
    loss: float


@dataclass(frozen=True)
class TuneCheck:
    """AUC of the prototypes' logit on validation users, per scenario, and the best so far."""

    step: int
    auc: dict[str, float]
    best: dict[str, float]


class Learned(nn.Module):
    """All that tuning changes, and each scenario's best of it by validation users."""

    best_prompt_GKD: Tensor
    best_prototype_GCO: Tensor
    best_auc_G: Tensor

    def __init__(self, prompt_GKD: Tensor, prototype_GCO: Tensor) -> None:
        super().__init__()
        self.prompt_GKD = nn.Parameter(prompt_GKD)
        self.prototype_GCO = nn.Parameter(prototype_GCO)
        self.register_buffer("best_prompt_GKD", prompt_GKD.detach().clone())
        self.register_buffer("best_prototype_GCO", prototype_GCO.detach().clone())
        self.register_buffer("best_auc_G", torch.zeros(len(prompt_GKD), dtype=torch.float64))


class Tuning:
    """Tunes the prompts of several scenarios in one run over shared, cached prefixes."""

    def __init__(
        self,
        towers: Towers,
        cache: PrefixCache,
        queries: Mapping[str, str],
        labelled: Mapping[str, Labelled],
        settings: Tune,
        seed: int,
        folder: Path,
    ) -> None:
        for name, part in labelled.items():
            if part.lacking:
                raise TrainingError(f"scenario {name!r} has {part.lacking}: widen its rule, or give more users")
        self.towers, self.cache, self.labelled, self.settings, self.seed = towers, cache, labelled, settings, seed
        self.names = list(labelled)
        self.tokens: Tokens = towers.tokens([queries[name] for name in self.names], "left")
        self.towers.eval()
        prompt_GKD = towers.prompt.detach().expand(len(self.names), -1, -1).clone()
        self.learned = Learned(prompt_GKD, self._class_means(prompt_GKD))
        self.checkpoints = Checkpoints(folder)

    def run(self) -> Iterator[TuneStep | TuneCheck]:
        """500 steps by default, from the last checkpoint if there is one.

        Afterwards `learned.best_prompt_GKD` holds each scenario's best prompt by validation AUC.
        """
        settings, saved = self.settings, self.checkpoints.position()
        optimiser = torch.optim.Adam(self.learned.parameters(), lr=settings.lr)
        if saved:
            self.checkpoints.load(self.learned, optimiser)
        self.towers.eval()
        frozen = [parameter for parameter in self.towers.parameters() if parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        for step in range(saved.step if saved else 0, settings.steps + 1):
            due = step % settings.validate_every == 0 or step == settings.steps
            if due and not (saved and step == saved.step):
                check = self._check(step)
                self.checkpoints.save(self.learned, optimiser, Position("tune", step, 0.0))
                yield check
            if step < settings.steps:
                for group in optimiser.param_groups:
                    group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
                loss = self._loss(step)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                yield TuneStep(step + 1, loss.item() / len(self.names))
        for parameter in frozen:
            parameter.requires_grad_(True)

    def _loss(self, step: int) -> Tensor:
        """Eq. 7 summed over the scenarios, each on its own balanced batch."""
        rng = np.random.default_rng((self.seed, step))
        rows, labels = zip(*(self._draw(rng, name) for name in self.names), strict=True)
        user_GBO = self._embed(np.stack(rows))
        return torch.stack(
            [
                losses.prototypical(
                    user_GBO[g],
                    self.learned.prototype_GCO[g],
                    torch.from_numpy(labels[g]).to(user_GBO.device),
                    self.settings.temperature,
                )
                for g in range(len(self.names))
            ]
        ).sum()

    def _draw(self, rng: np.random.Generator, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        part, half = self.labelled[name], self.settings.batch // CLASSES
        picked = [rng.choice(np.flatnonzero(part.train_label == c), half) for c in range(CLASSES)]
        chosen = np.concatenate(picked)
        return part.train_row[chosen], part.train_label[chosen]

    def _embed(self, row_GB: npt.NDArray[np.int64]) -> Tensor:
        """u [G, B, O] of each scenario's own users, from cached prefixes; gradients reach the prompts only."""
        scenarios, users = row_GB.shape
        scenario_R = torch.arange(scenarios, device=self.towers.device).repeat_interleave(users)
        with autocast(self.towers):
            prefix, cached = self.cache.take(row_GB.ravel())
            prompt_R1KD = self.learned.prompt_GKD[scenario_R][:, None]
            user_R1O = self.towers.anchor(prefix, self.tokens, scenario_R[:, None], prompt_R1KD, cached)
        return user_R1O.view(scenarios, users, -1)

    @torch.no_grad()
    def _embed_one(self, g: int, rows: npt.NDArray[np.int64], prompt_KD: Tensor) -> Tensor:
        """u [rows, O] of one scenario with a given prompt."""
        parts = []
        for start in range(0, len(rows), CHUNK):
            prefix, cached = self.cache.take(rows[start : start + CHUNK])
            query_R1 = torch.full((len(prefix), 1), g, device=self.towers.device)
            with autocast(self.towers):
                user_R1O = self.towers.anchor(prefix, self.tokens, query_R1, prompt_KD[None, None], cached)
            parts.append(user_R1O[:, 0])
        return torch.cat(parts)

    def _class_means(self, prompt_GKD: Tensor) -> Tensor:
        """[G, C, O] where the prototypes start: the mean base embedding of each class over some training users."""
        rng = np.random.default_rng(self.seed)
        means = []
        for g, name in enumerate(self.names):
            rows, labels = self._draw(rng, name)
            user_RO = self._embed_one(g, rows, prompt_GKD[g])
            means.append(torch.stack([user_RO[torch.from_numpy(labels == c)].mean(0) for c in range(CLASSES)]))
        return F.normalize(torch.stack(means), dim=-1)

    @torch.no_grad()
    def _check(self, step: int) -> TuneCheck:
        """Score the prototypes on validation users, and keep what is a scenario's best so far."""
        auc, learned = {}, self.learned
        prototype_GCO = F.normalize(learned.prototype_GCO, dim=-1)
        for g, name in enumerate(self.names):
            part = self.labelled[name]
            user_RO = self._embed_one(g, part.validation_row, learned.prompt_GKD[g])
            logit_R = user_RO @ (prototype_GCO[g, 1] - prototype_GCO[g, 0])
            auc[name] = float(roc_auc_score(part.validation_label, logit_R.cpu().numpy()))
            if auc[name] > learned.best_auc_G[g]:
                learned.best_auc_G[g] = auc[name]
                learned.best_prompt_GKD[g] = learned.prompt_GKD[g]
                learned.best_prototype_GCO[g] = prototype_GCO[g]
        return TuneCheck(step, auc, dict(zip(self.names, learned.best_auc_G.tolist(), strict=True)))
