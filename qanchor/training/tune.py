"""Cluster-based soft prompt tuning (section 3.2.3, Eq. 7): six vectors a scenario, everything else frozen.

A user's prefix does not depend on the scenario, so it is computed once and kept (tokens and KV); each step runs only
suffixes, of all scenarios at once. Every scenario draws its own users, as many of each class, so that rare positives
are seen; the shared prompt of pretraining is where every scenario starts, and of what is tuned that with the lowest
loss on validation users is kept. Then the scenario gets its readout (`readouts.py`; docs/decisions/0004-tuning.md,
0010-readout.md, 0011-forest.md). What a scenario draws depends on its name, the seed and the step: in whatever company
it is tuned, it learns the same.

Shapes: N users of the cache, G scenarios, B users of a scenario's batch, R = G * B rows of a step, K prompt vectors, D
width, C classes of the scenario that has most, O = 128, Z numbers of its own that a suffix has for a readout.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
from qanchor.model.head import PROMPTED
from qanchor.model.prefixes import PrefixCache
from qanchor.model.prompts import SoftPrompt
from qanchor.model.readout import Readout, written
from qanchor.model.towers import Tokens, Towers
from qanchor.training import readouts
from qanchor.training.checkpoints import Checkpoints, Position
from qanchor.training.counted import Counted
from qanchor.training.pretrain import autocast
from qanchor.training.sample import Labelled, Sample

CHUNK = {"cpu": 64, "cuda": 512}
"""Users embedded at once: those of like length, so that little of it is padding."""
TOGETHER = 12
"""Scenarios whose users are embedded in one pass, at most: what is kept of them takes two kilobytes a user and
scenario."""
START = 64
"""Training users of each class whose mean a prototype starts from."""

Ints = npt.NDArray[np.int64]


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
    """and that of the prompt of the lowest loss so far, which is kept."""


class Learned(nn.Module):
    """All that tuning changes, and of each scenario what had the lowest validation loss."""

    best_prompt_GKD: Tensor
    best_prototype_GCO: Tensor
    best_loss_G: Tensor
    best_auc_G: Tensor

    def __init__(self, prompt_GKD: Tensor, prototype_GCO: Tensor) -> None:
        super().__init__()
        self.prompt_GKD = nn.Parameter(prompt_GKD)
        self.prototype_GCO = nn.Parameter(prototype_GCO)
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
        as_of_N: Ints,
        counted: Mapping[str, Counted],
        settings: Tune,
        seed: int,
        folder: Path,
    ) -> None:
        """Scenarios are those of `labelled`.

        Args:
            as_of_N: seconds since 1970 at which each of the cache's users was looked at.
            counted: what counting says of each scenario; nothing, for a model without user token.
            folder: holds the run's checkpoints.

        Raises:
            TrainingError: a scenario has nothing to tune on.
        """
        for name, part in labelled.items():
            if part.lacking:
                raise TrainingError(f"scenario {name!r} has {part.lacking}: widen its rule, or give more users")
        self.towers, self.cache, self.queries, self.labelled = towers, cache, queries, labelled
        self.as_of_N, self.counted, self.settings, self.seed = as_of_N, counted, settings, seed
        self.names = list(labelled)
        self.tokens: Tokens = towers.tokens([queries[name] for name in self.names], "left")
        self.towers.eval()
        self.checkpoints = Checkpoints(folder)
        prompt_GKD = towers.prompt.detach().expand(len(self.names), -1, -1).clone()
        self.share_X = prompt_GKD.new_tensor(PROMPTED)
        self.learned = Learned(prompt_GKD, self._class_means(prompt_GKD))
        self.kept: dict[str, SoftPrompt] = {}
        """scenario -> its best, once all steps are done; of no model yet."""

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
            self.kept = dict(self._finished())
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def prompts(self, model: str) -> dict[str, SoftPrompt]:
        """Each scenario's best by validation users, for the model of fingerprint `model`."""
        return {name: replace(prompt, model=model) for name, prompt in self.kept.items()}

    def _finished(self) -> Iterator[tuple[str, SoftPrompt]]:
        """Each scenario's best prompt with its readout, and the class means of the embeddings that they make."""
        samples = [self.labelled[name].sample(self.as_of_N) for name in self.names]
        for start in range(0, len(samples), TOGETHER):
            some = dict(list(enumerate(samples))[start : start + TOGETHER])
            told = self._told({g: sample.row_R for g, sample in some.items()}, self.learned.best_prompt_GKD)
            for g, sample in some.items():
                yield self.names[g], self._with_readout(g, *told.pop(g), sample)

    def _with_readout(self, g: int, mixed_RO: Tensor, own_RZ: Tensor, sample: Sample) -> SoftPrompt:
        name, prompt_KD = self.names[g], self.learned.best_prompt_GKD[g]
        tally_RY = self.cache.tally_NY[torch.from_numpy(sample.row_R).to(self.cache.tally_NY.device)].float().cpu()
        own_RZ, mixed_RO = own_RZ.float().cpu(), mixed_RO.float().cpu()
        counted = self.counted.get(name) or Counted.silent(sample)
        readout = readouts.fitted(tally_RY.numpy(), own_RZ.numpy(), self.towers.own, counted, sample)
        one = Readout.stack([readout], own_RZ.device)
        user_RO = written(one, tally_RY, own_RZ[:, None], mixed_RO[:, None])[:, 0]
        trained, classes = sample.split_R == "train", len(self.labelled[name].members)
        own_CR = (torch.from_numpy(trained & (sample.class_R == c)) for c in range(classes))
        mean_CO = torch.stack([user_RO[own_R].mean(0) for own_R in own_CR])
        return SoftPrompt(name, self.queries[name], prompt_KD, F.normalize(mean_CO, dim=-1), "", readout)

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
    def _told(self, rows: Mapping[int, Ints], prompt_GKD: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Of any users for some scenarios: scenario -> embeddings before a readout [R, O], and what that reads [R, Z].

        Users whom the same scenarios ask for are read once, for all of them.
        """
        asked_NG = np.zeros((len(self.cache.length_N), len(self.names)), bool)
        for g, row_R in rows.items():
            asked_NG[row_R, g] = True
        place_NG = asked_NG.cumsum(0) - 1
        found: dict[int, tuple[Tensor, Tensor]] = {}
        sets, of_N = np.unique(asked_NG, axis=0, return_inverse=True)
        for s, asked_G in enumerate(sets):
            together, users = np.flatnonzero(asked_G), np.flatnonzero(of_N == s)
            for picked in self._like_lengths(users) if len(together) else ():
                with autocast(self.towers):
                    prefix, cached = self.cache.take(users[picked])
                    query_1N = torch.from_numpy(together).to(self.towers.device)[None]
                    stream_BNXO, own_BNZ = self.towers.streams(
                        prefix, self.tokens, query_1N, prompt_GKD[query_1N], cached
                    )
                    mixed_BNO = self.towers.head.mix(stream_BNXO, self.share_X)
                for n, g in enumerate(together.tolist()):
                    if g not in found:
                        size = int(place_NG[-1, g]) + 1
                        found[g] = (
                            mixed_BNO.new_empty(size, *mixed_BNO.shape[2:]),
                            own_BNZ.new_empty(size, *own_BNZ.shape[2:]),
                        )
                    place_B = torch.from_numpy(place_NG[users[picked], g]).to(mixed_BNO.device)
                    found[g][0][place_B], found[g][1][place_B] = mixed_BNO[:, n], own_BNZ[:, n]
        back = {g: torch.from_numpy(place_NG[row_R, g]) for g, row_R in rows.items()}
        return {g: (mixed_XO[back[g]], own_XZ[back[g]]) for g, (mixed_XO, own_XZ) in found.items()}

    def _class_means(self, prompt_GKD: Tensor) -> Tensor:
        """[G, C, O] where the prototypes start: the mean base embedding of some training users of each class."""
        most = max(classes for _, classes in self._classes)
        mean_GCO = prompt_GKD.new_zeros(len(self.names), most, self.towers.dim)
        drawn = [self._draw(name, 0, START * classes) for name, classes in self._classes]
        told = self._told({g: row_R for g, (row_R, _) in enumerate(drawn)}, prompt_GKD)
        for g, (_, class_R) in enumerate(drawn):
            user_RO, _ = told[g]
            for c in range(self._classes[g][1]):
                mean_GCO[g, c] = user_RO[class_R == c].mean(0)
        return F.normalize(mean_GCO, dim=-1)

    @torch.no_grad()
    def _check(self, step: int) -> TuneCheck:
        """Try the prototypes on validation users, and keep what is a scenario's best so far."""
        loss, auc, learned = {}, {}, self.learned
        prototype_GCO = F.normalize(learned.prototype_GCO, dim=-1)
        rows = {g: self.labelled[name].validation_row for g, name in enumerate(self.names)}
        told = self._told(rows, learned.prompt_GKD)
        for g, (name, classes) in enumerate(self._classes):
            part, prototype_CO, (user_RO, _) = self.labelled[name], prototype_GCO[g, :classes], told[g]
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
