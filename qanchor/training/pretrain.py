"""Pretraining on UserU: the joint objective L = L_cl + L_ntp of section 3.2.2, in two phases.

*Align* trains adapters, anchor seed and heads with the backbone bypassed; *open* trains everything, the backbone's
residual branches starting at zero, so that it begins exactly where align ended (design, section 7). A backbone that
is pretrained, or has no anchor seed, goes straight to *open*.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from qanchor.config import Pretrain
from qanchor.errors import TrainingError
from qanchor.model.head import TOWERS
from qanchor.model.towers import Towers
from qanchor.training.checkpoints import Checkpoints, Position
from qanchor.training.corpus import Corpus
from qanchor.training.journal import Journal
from qanchor.training.masters import Masters
from qanchor.training.objective import Objective, autocast
from qanchor.training.pairs import PairBatch
from qanchor.training.ranks import ALONE, Ranks
from qanchor.training.speed import settle
from qanchor.training.watch import Step, Validation, Watch

__all__ = ["Corpus", "Pretraining", "Step", "Validation", "autocast"]

ALIGN_STEPS = (40, 400)
"""Steps of an align phase at least and at most, where the config names no number."""
WARMUP = 20
"""Steps over which each phase's learning rate rises."""
WEIGHT_DECAY = 0.01
OPEN_LR = 0.25
"""Peak learning rate of the open phase against that of an align phase before it."""
COUNTED = 8
"""Users on whom the FLOPs of a token are counted."""


class Pretraining:
    """One run. `run` yields a `Step` for each step and a `Validation` for each check; stopping early loses nothing.

    A step's batch, and dropout, depend on (seed, phase, step) only: a resumed run goes on as the uninterrupted one
    would have, and one on another number of ranks sees the same batches.
    """

    def __init__(
        self,
        towers: Towers,
        train: Corpus,
        validation: Corpus,
        settings: Pretrain,
        seed: int,
        folder: Path,
        ranks: Ranks = ALONE,
    ) -> None:
        """`towers` must be the same on every rank, `train` and `validation` hold the rank's own users."""
        self.towers, self.train, self.settings, self.seed, self.ranks = towers, train, settings, seed, ranks
        self.folder, self.checkpoints = folder, Checkpoints(folder)
        self.objective = Objective(towers, train, settings, ranks)
        self.watch = Watch(Objective(towers, validation, settings, ranks), settings, seed)
        half = int(np.clip(train.pairs.keys // (2 * settings.batch), *ALIGN_STEPS))
        align = half if settings.align_steps is None else settings.align_steps
        self.phases = {"align": align if towers.seeded else 0, "open": settings.steps}
        if settings.checkpointing:
            with warnings.catch_warnings():  # its old name, the only one that every transformers 5 knows
                warnings.simplefilter("ignore", FutureWarning)
                towers.backbone.gradient_checkpointing_enable({"use_reentrant": False})

    def run(self) -> Iterator[Step | Validation]:
        """Train from the last checkpoint, or from the start; ends with the best weights loaded.

        Raises:
            TrainingError: a loss or gradient that is not finite, before the weights have moved; the message names the
                step and the users of its batch.
        """
        names = list(self.phases)
        saved = self.checkpoints.position() or Position(names[0], 0, math.inf)
        self.ranks.wait()  # until every rank has read where the run stands
        with contextlib.closing(self._journal(saved)) if self.ranks.first else contextlib.nullcontext() as journal:
            best = saved.best
            for phase in names[names.index(saved.phase) :]:
                for done in self._phase(phase, saved.step if phase == saved.phase else 0, best, journal):
                    best = done.best if isinstance(done, Validation) else best
                    yield done
        self.ranks.wait()
        self.checkpoints.load_best(self.towers)

    def _journal(self, saved: Position) -> Journal:
        return Journal(self.folder, self._at(saved.phase, saved.step), self.settings.model_dump())

    def _phase(self, phase: str, first: int, best: float, journal: Journal | None) -> Iterator[Step | Validation]:
        steps, settings = self.phases[phase], self.settings
        # what align has learned is not to be shaken off by the first steps of an open backbone
        peak = settings.lr * (OPEN_LR if self.phases["align"] and phase == "open" else 1)
        masters = Masters(self.towers)
        optimiser = torch.optim.AdamW(masters.parameters, lr=peak, weight_decay=WEIGHT_DECAY, fused=True)
        if first:
            self.checkpoints.load(self.towers, optimiser)
            masters.publish()
        if first == steps:
            return
        self.towers.train()
        flops = self.objective.flops(self._draw(phase, first, COUNTED), phase == "align")
        if settings.compile and phase == "open":  # not before: what has run under the counter is never compiled
            for layer in self.towers.backbone.get_decoder().layers:
                layer.compile(dynamic=True)
        since: list[Step] = []
        for step in range(first, steps):
            for group in optimiser.param_groups:
                group["lr"] = peak * _schedule(step, steps)
            due = (step + 1) % settings.validate_every == 0 or step + 1 == steps
            done, gradient = self._step(phase, step, optimiser, masters, due)
            since.append(done)
            self._note(journal, done)
            yield done
            if due:
                progress = self._at(phase, step + 1) / sum(self.phases.values())
                check = self.watch.look(since, progress, best, gradient, flops)
                self._note(journal, check)
                if self.ranks.first:
                    if check.loss < best:
                        self.checkpoints.save_best(self.towers)
                    self.checkpoints.save(self.towers, optimiser, Position(phase, step + 1, check.best))
                best, since = check.best, []
                yield check

    def _step(
        self, phase: str, step: int, optimiser: torch.optim.Optimizer, masters: Masters, due: bool
    ) -> tuple[Step, tuple[float, float]]:
        """One step, and (where a validation is due) the mean and the largest |g| of it."""
        start, settings = time.perf_counter(), self.settings
        drawn = self._draw(phase, step)
        # On an untrained model Eq. 5 can drop every negative (design, section 7): it is switched on after a warm-up.
        masked = phase == "open" and settings.mask != "none" and step >= settings.mask_after * self.phases[phase]
        noise = int(np.random.SeedSequence(self._place(phase, step)).generate_state(1)[0])
        measured = self.objective.backward(drawn, phase == "align", masked, masters, noise)
        gradient = masters.gradient() if due else (0.0, 0.0)
        norm = torch.nn.utils.clip_grad_norm_(masters.parameters, 1.0)
        contrast = measured.contrast
        values = (measured.loss, contrast.loss, measured.ntp, contrast.kept, contrast.positive, contrast.negative, norm)
        numbers = torch.stack([value.detach().double() for value in values]).tolist()
        loss, contrastive, ntp, kept, positive, negative, norm = numbers
        self._check(phase, step, drawn, loss, norm)
        optimiser.step()
        masters.publish()
        for tower, projection_BNO in zip(TOWERS, measured.projection_2BNO, strict=True):
            self.towers.head.observe(projection_BNO, tower)
        settle(self.towers.device)
        work = masked, drawn.topic_BN.size, measured.tokens, time.perf_counter() - start
        return Step(phase, step + 1, loss, contrastive, ntp, kept, positive, negative, norm, *work), gradient

    def _check(self, phase: str, step: int, drawn: PairBatch, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        users = ", ".join(map(str, self.train.profiles.user_ids[drawn.profile_L][:8]))
        raise TrainingError(
            f"loss is {loss}, length of its gradient {norm} at step {step} of {phase}, users {users}...; expected "
            "finite numbers: lower `training.pretrain.lr`, or look at these users' values"
        )

    def _draw(self, phase: str, step: int, users: int | None = None) -> PairBatch:
        rng = np.random.default_rng(self._place(phase, step))
        return self.train.pairs.draw(rng, users or self.settings.batch, self.settings.pairs, self.settings.mixed)

    def _place(self, phase: str, step: int) -> tuple[int, int, int]:
        """What all chance of a step comes from."""
        return self.seed, list(self.phases).index(phase), step

    def _at(self, phase: str, step: int) -> int:
        """Steps of the whole run."""
        names = list(self.phases)
        return sum(self.phases[name] for name in names[: names.index(phase)]) + step

    def _note(self, journal: Journal | None, done: Step | Validation) -> None:
        if journal:
            journal.write(type(done).__name__.lower(), self._at(done.phase, done.step), asdict(done))


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))
