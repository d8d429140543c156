"""Cluster-based soft prompt tuning (section 3.2.3, Eq. 7): six vectors a scenario, everything else frozen.

A user's prefix does not depend on the scenario, so it is computed once and kept (tokens and KV); each step runs only
suffixes, of all scenarios at once. Every scenario draws its own users, as many of each class, so that rare positives
are seen; the shared prompt of pretraining is where every scenario starts. Of what is tuned that with the lowest loss on
validation users is kept, and in the end only where a probe is better for it (`choice.py`); then the scenario gets its
readout (`readouts.py`; docs/decisions/0004-tuning.md, 0010-readout.md). What a scenario draws depends on its name, the
seed and the step: in whatever company it is tuned, it learns the same.

Shapes: G scenarios, B users of a scenario's batch, R = G * B rows of a step, K prompt vectors, D width, C classes of
the scenario that has most, O = 128, X streams that an embedding is mixed of, Y numbers that a readout reads.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
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
from qanchor.model.head import STREAMS
from qanchor.model.prefixes import PrefixCache
from qanchor.model.prompts import SoftPrompt
from qanchor.model.readout import written
from qanchor.model.towers import Tokens, Towers
from qanchor.training import choice, readouts
from qanchor.training.checkpoints import Checkpoints, Position
from qanchor.training.pretrain import autocast

CHUNK = {"cpu": 64, "cuda": 512}
"""Users embedded at once: those of like length, so that little of it is padding."""
PROMPTED = 3.0
"""How many times as much of what its own prompt reads a scenario's embedding holds as one by the shared prompt."""
ROWS = 20_000
"""Training users of a scenario by whom is decided what it keeps, at most."""
START = 64
"""Training users of each class whose mean a prototype starts from."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """A scenario's labelled users: rows of the prefix cache and their classes, 0..C-1."""

    train_row: Ints
    train_label: Ints
    validation_row: Ints
    validation_label: Ints

    @cached_property
    def members(self) -> list[Ints]:
        """Training rows of each class."""
        classes = int(self.train_label.max(initial=-1)) + 1
        return [self.train_row[self.train_label == c] for c in range(classes)]

    @property
    def lacking(self) -> str:
        """Why there is nothing to tune on; empty where each class is seen in training, and two in validation."""
        for split, label in (("training", self.train_label), ("validation", self.validation_label)):
            if len(np.unique(label)) < 2:
                return f"only one class among its {len(label)} {split} users, expected two or more"
        unseen = sorted(set(range(int(self.validation_label.max()) + 1)) - set(self.train_label.tolist()))
        unseen += [c for c, rows in enumerate(self.members) if not len(rows) and c not in unseen]
        return f"no training user of class {unseen[0]}, expected some of each from 0 to the highest" if unseen else ""


@dataclass(frozen=True)
class TuneStep:
    step: int
    loss: float
    """Eq. 7, mean over the scenarios."""


@dataclass(frozen=True)
class TuneCheck:
    """How each scenario's prototypes do on its validation users after `step` steps."""

    step: int
    loss: dict[str, float]
    """Eq. 7, each class weighing the same."""
    auc: dict[str, float]
    """`macro_auc`"""
    kept: dict[str, float]
    """and that of the prompt of the lowest loss so far: what a probe decides about in the end."""


class Learned(nn.Module):
    """All that tuning changes; of each scenario, what it started with and what had the lowest validation loss."""

    start_prompt_GKD: Tensor
    start_prototype_GCO: Tensor
    best_prompt_GKD: Tensor
    best_prototype_GCO: Tensor
    best_loss_G: Tensor
    best_auc_G: Tensor

    def __init__(self, prompt_GKD: Tensor, prototype_GCO: Tensor) -> None:
        super().__init__()
        self.prompt_GKD = nn.Parameter(prompt_GKD)
        self.prototype_GCO = nn.Parameter(prototype_GCO)
        self.register_buffer("start_prompt_GKD", prompt_GKD.detach().clone())
        self.register_buffer("start_prototype_GCO", prototype_GCO.detach().clone())
        self.register_buffer("best_prompt_GKD", prompt_GKD.detach().clone())
        self.register_buffer("best_prototype_GCO", prototype_GCO.detach().clone())
        self.register_buffer("best_loss_G", torch.full((len(prompt_GKD),), math.inf, dtype=torch.float64))
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
        """Scenarios are those of `labelled`; `folder` holds the run's checkpoints.

        Raises:
            TrainingError: a scenario has nothing to tune on.
        """
        for name, part in labelled.items():
            if part.lacking:
                raise TrainingError(f"scenario {name!r} has {part.lacking}: widen its rule, or give more users")
        self.towers, self.cache, self.queries, self.labelled = towers, cache, queries, labelled
        self.settings, self.seed = settings, seed
        self.names = list(labelled)
        self.tokens: Tokens = towers.tokens([queries[name] for name in self.names], "left")
        self.towers.eval()
        self.checkpoints = Checkpoints(folder)
        prompt_GKD = towers.prompt.detach().expand(len(self.names), -1, -1).clone()
        self.share_X = prompt_GKD.new_ones(len(STREAMS))
        """How many times as much as usual an embedding holds of each stream."""
        self.learned = Learned(prompt_GKD, self._class_means(prompt_GKD))
        self.kept = {name: self._start(g, classes) for g, (name, classes) in enumerate(self._classes)}
        """scenario -> what it has now; its best, once all steps are done. Of no model yet."""
        self.share_X[-1] = PROMPTED

    def run(self) -> Iterator[TuneStep | TuneCheck]:
        """200 steps by default, from the last checkpoint if there is one; `prompts` are then each scenario's best.

        Raises:
            TrainingError: a loss that is not finite; the message names step and scenario.
        """
        settings, saved = self.settings, self.checkpoints.position()
        optimiser = torch.optim.Adam(self.learned.parameters(), lr=settings.lr)
        if saved:
            self.checkpoints.load(self.learned, optimiser)
        first = saved.step if saved else 0
        frozen = [parameter for parameter in self.towers.parameters() if parameter.requires_grad]
        try:
            for parameter in frozen:
                parameter.requires_grad_(False)
            for step in range(first, settings.steps + 1):
                due = step % settings.validate_every == 0 or step == settings.steps
                if due and not (saved and step == first):
                    check = self._check(step)
                    self.checkpoints.save(self.learned, optimiser, Position("tune", step, 0.0))
                    yield check
                if step < settings.steps:
                    for group in optimiser.param_groups:
                        group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
                    optimiser.zero_grad()
                    loss = self._backward(step)
                    optimiser.step()
                    yield TuneStep(step + 1, loss)
            self.kept = {name: self._decide(g, classes) for g, (name, classes) in enumerate(self._classes)}
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def prompts(self, model: str) -> dict[str, SoftPrompt]:
        """Each scenario's best by validation users, for the model of fingerprint `model`."""
        return {name: replace(prompt, model=model) for name, prompt in self.kept.items()}

    def _start(self, g: int, classes: int) -> SoftPrompt:
        name, learned = self.names[g], self.learned
        prompt_KD, prototype_CO = learned.start_prompt_GKD[g], learned.start_prototype_GCO[g, :classes]
        return SoftPrompt(name, self.queries[name], prompt_KD, prototype_CO, "", self.share_X.clone())

    def _decide(self, g: int, classes: int) -> SoftPrompt:
        """What a scenario ends with: what was tuned, only where a probe is better for it; and the readout."""
        start, mix, (row_R, class_R, split_R) = self.kept[self.names[g]], self.towers.head.mix, self._judges(g)
        tuned = replace(start, prompt_KD=self.learned.best_prompt_GKD[g], share_X=self.share_X)
        told = [(one, *self._all_streams(g, row_R, one.prompt_KD)) for one in (start, tuned)]
        embedded = [mix(stream_RXO, one.share_X) for one, stream_RXO, _ in told]
        kept, stream_RXO, known_RY = told[choice.best(embedded, class_R, split_R)]

        readout_RY = readouts.fitted(known_RY.float().cpu().numpy(), self.towers.known, class_R, split_R)
        kept = replace(kept, readout_RY=readout_RY.to(known_RY.device))
        user_RO = mix(stream_RXO, kept.share_X, partial(written, kept.readout_RY, known_RY))
        own_CO = [user_RO[torch.from_numpy((class_R == c) & (split_R == "train"))].mean(0) for c in range(classes)]
        return replace(kept, prototype_CO=F.normalize(torch.stack(own_CO), dim=-1))

    def _judges(self, g: int) -> tuple[Ints, Ints, npt.NDArray[np.str_]]:
        """Rows of the cache, classes and splits of the users whom a scenario's choices are made by."""
        part = self.labelled[self.names[g]]
        rng = np.random.default_rng((self.seed, zlib.crc32(self.names[g].encode())))
        some = np.sort(rng.permutation(len(part.train_row))[:ROWS])
        rows = np.concatenate([part.train_row[some], part.validation_row])
        split_R = np.repeat(["train", "validation"], [len(some), len(part.validation_row)])
        return rows, np.concatenate([part.train_label[some], part.validation_label]), split_R

    @torch.no_grad()
    def _all_streams(self, g: int, row_R: Ints, prompt_KD: Tensor) -> tuple[Tensor, Tensor]:
        """[R, X, O] what any number of users' embeddings for one scenario are mixed of, and what readouts read."""
        picked, parts = list(self._like_lengths(row_R)), []
        for place in picked:
            with autocast(self.towers):
                prefix, cached = self.cache.take(row_R[place])
                query_R1 = torch.full((len(place), 1), g, device=self.towers.device)
                prompt_R1KD = prompt_KD.expand(len(place), 1, -1, -1)
                parts.append(self.towers.streams(prefix, self.tokens, query_R1, prompt_R1KD, cached))
        back_R = torch.from_numpy(np.argsort(np.concatenate(picked)))
        stream_RXO, known_RY = (torch.cat([part[:, 0] for part in both])[back_R] for both in zip(*parts, strict=True))
        return stream_RXO, known_RY

    @property
    def _classes(self) -> list[tuple[str, int]]:
        return [(name, len(self.labelled[name].members)) for name in self.names]

    def _backward(self, step: int) -> float:
        """Adds up the gradients of Eq. 7 of each scenario's own batch; its mean over the scenarios."""
        batch = self.settings.batch
        row_GB, class_GB = map(np.stack, zip(*(self._draw(name, step, batch) for name in self.names), strict=True))
        scenario_R, row_R, class_R = np.repeat(np.arange(len(self.names)), batch), row_GB.ravel(), class_GB.ravel()
        loss_G = torch.zeros(len(self.names), device=self.towers.device)
        for picked in self._like_lengths(row_R):
            user_RO = self._embed(scenario_R[picked], row_R[picked], self.learned.prompt_GKD)
            parts = {}
            for g in np.unique(scenario_R[picked]):
                own = np.flatnonzero(scenario_R[picked] == g)
                class_B = torch.from_numpy(class_R[picked][own]).to(user_RO.device)
                prototype_CO = self.learned.prototype_GCO[g, : self._classes[g][1]]
                mean = losses.prototypical(user_RO[own], prototype_CO, class_B, self.settings.temperature)
                parts[g] = mean * len(own) / batch
                loss_G[g] += parts[g].detach()
            torch.autograd.backward(torch.stack(list(parts.values())).sum())
        for name, loss in zip(self.names, loss_G.tolist(), strict=True):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"loss of scenario {name!r} is {loss} after {step} steps; expected a finite number: "
                    "lower `training.tune.lr`"
                )
        return loss_G.mean().item()

    def _draw(self, name: str, step: int, size: int) -> tuple[Ints, Ints]:
        """Rows of the cache and classes of a scenario's batch: all classes in turn, whatever their shares."""
        members = self.labelled[name].members
        rng = np.random.default_rng((self.seed, zlib.crc32(name.encode()), step))
        class_B = (step * size + np.arange(size)) % len(members)
        row_B = np.array([rng.choice(members[c]) for c in class_B])
        return row_B, class_B

    def _like_lengths(self, row_R: Ints) -> Iterator[Ints]:
        """Places in `row_R`, chunk by chunk, users of like length together."""
        order, chunk = np.argsort(self.cache.length_N.numpy()[row_R], kind="stable"), CHUNK[self.towers.device.type]
        for start in range(0, len(order), chunk):
            yield order[start : start + chunk]

    def _embed(self, scenario_R: Ints, row_R: Ints, prompt_GKD: Tensor) -> Tensor:
        """u [R, O] of users for a scenario each, from cached prefixes; gradients reach the prompts only."""
        query_R = torch.from_numpy(scenario_R).to(self.towers.device)
        with autocast(self.towers):
            prefix, cached = self.cache.take(row_R)
            stream_R1XO, _ = self.towers.streams(
                prefix, self.tokens, query_R[:, None], prompt_GKD[query_R][:, None], cached
            )
            return self.towers.head.mix(stream_R1XO[:, 0], self.share_X)

    @torch.no_grad()
    def _embed_all(self, g: int, row_R: Ints, prompt_GKD: Tensor) -> Tensor:
        """u [R, O] of any number of users for one scenario."""
        stream_RXO, _ = self._all_streams(g, row_R, prompt_GKD[g])
        return self.towers.head.mix(stream_RXO, self.share_X)

    def _class_means(self, prompt_GKD: Tensor) -> Tensor:
        """[G, C, O] where the prototypes start: the mean base embedding of some training users of each class."""
        most = max(classes for _, classes in self._classes)
        mean_GCO = prompt_GKD.new_zeros(len(self.names), most, self.towers.dim)
        for g, (name, classes) in enumerate(self._classes):
            row_R, class_R = self._draw(name, 0, START * classes)
            user_RO = self._embed_all(g, row_R, prompt_GKD)
            for c in range(classes):
                mean_GCO[g, c] = user_RO[class_R == c].mean(0)
        return F.normalize(mean_GCO, dim=-1)

    @torch.no_grad()
    def _check(self, step: int) -> TuneCheck:
        """Try the prototypes on validation users, and keep what is a scenario's best so far."""
        loss, auc, learned = {}, {}, self.learned
        prototype_GCO = F.normalize(learned.prototype_GCO, dim=-1)
        for g, (name, classes) in enumerate(self._classes):
            part, prototype_CO = self.labelled[name], prototype_GCO[g, :classes]
            user_RO = self._embed_all(g, part.validation_row, learned.prompt_GKD)
            class_R = torch.from_numpy(part.validation_label).to(user_RO.device)
            by_class = [
                losses.prototypical(
                    user_RO[class_R == c], prototype_CO, class_R[class_R == c], self.settings.temperature
                )
                for c in torch.unique(class_R)
            ]
            loss[name] = torch.stack(by_class).mean().item()
            auc[name] = macro_auc(part.validation_label, user_RO @ prototype_CO.T)
            if loss[name] < learned.best_loss_G[g]:
                learned.best_loss_G[g], learned.best_auc_G[g] = loss[name], auc[name]
                learned.best_prompt_GKD[g] = learned.prompt_GKD[g]
                learned.best_prototype_GCO[g] = prototype_GCO[g]
        return TuneCheck(step, loss, auc, dict(zip(self.names, learned.best_auc_G.tolist(), strict=True)))


def macro_auc(label_R: Ints, logit_RC: Tensor) -> float:
    """AUC of each class that occurs against all others, by its probability; their mean. For two classes, the AUC."""
    probability_RC = logit_RC.double().log_softmax(-1).cpu().numpy()
    return float(np.mean([roc_auc_score(label_R == c, probability_RC[:, c]) for c in np.unique(label_R)]))
