"""Pretraining on UserU: the joint objective L = L_cl + L_ntp of section 3.2.2, in two phases.

*Align* trains adapters, anchor seed and heads with the backbone bypassed; *open* trains everything, the backbone's
residual branches starting at zero, so that it begins exactly where align ended (design, section 7). A backbone that
is pretrained, or has no anchor seed, goes straight to *open*.

Shapes: B users of a batch, N questions each, T answer tokens, O width of an embedding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qanchor.config import Pretrain
from qanchor.errors import TrainingError
from qanchor.events.profiles import Profiles
from qanchor.model import losses
from qanchor.model.batch import collate
from qanchor.model.towers import Tokens, Towers
from qanchor.training.checkpoints import Checkpoints, Position
from qanchor.training.masters import Masters
from qanchor.training.pairs import PairBatch, Pairs

WARMUP = 20
"""Steps over which each phase's learning rate rises."""
VALIDATION_BATCHES = 8
WEIGHT_DECAY = 0.01
OPEN_LR = 0.25
"""Peak learning rate of the open phase against that of an align phase before it."""


@dataclass(frozen=True)
class Corpus:
    """One split, ready to be drawn from: profiles, pairs, and their texts indexed for the towers."""

    profiles: Profiles
    pairs: Pairs
    texts: Any
    queries: Tokens
    answers: Tokens
    kept: np.ndarray[Any, np.dtype[np.int64]]
    """[M] event tokens kept of each modality."""

    @classmethod
    def of(cls, towers: Towers, profiles: Profiles, pairs: Pairs, kept: Any, texts: Any) -> Corpus:
        queries, answers = towers.tokens(pairs.queries, "left"), towers.tokens(pairs.answers, "right")
        return cls(profiles, pairs, texts, queries, answers, kept)


@dataclass(frozen=True)
class Validation:
    """Contrastive loss on validation users after `step` steps, and the best so far."""

    phase: str
    step: int
    loss: float
    best: float


@dataclass(frozen=True)
class Step:
    """What one step measured."""

    phase: str
    step: int
    loss: float
    contrastive: float
    ntp: float
    kept: float
    positive: float
    negative: float


def autocast(towers: Towers) -> contextlib.AbstractContextManager[Any]:
    """The fp32 parts around the backbone multiply in what it computes in."""
    return torch.autocast(towers.device.type, torch.bfloat16, enabled=towers.dtype == torch.bfloat16)


def loss_of(
    towers: Towers, corpus: Corpus, drawn: PairBatch, settings: Pretrain, bypass: bool, masked: bool
) -> tuple[Tensor, losses.Contrast, Tensor]:
    """The joint loss of one batch, its contrastive part (mean over the questions) and its NTP part."""
    device = towers.device
    batch = collate(corpus.profiles, drawn.profile_B, corpus.kept)
    query_BN = torch.from_numpy(drawn.query_BN).to(device)
    answer_BN = torch.from_numpy(drawn.answer_BN).to(device)
    ntp = torch.zeros((), device=device)
    with autocast(towers):
        prefix = towers.prefix(batch, corpus.texts)
        if bypass:
            user_BNO, answer_BNO = towers.aligned(prefix, corpus.queries, query_BN, corpus.answers, answer_BN)
        else:
            answer_BNO = towers.answer(corpus.answers, answer_BN)
            user_BNO, ntp = _anchor_and_ntp(towers, corpus, prefix, query_BN, answer_BN, settings)
    mask = settings.mask if masked else "none"
    parts = [
        losses.contrastive(
            user_BNO[:, n], answer_BNO[:, n], settings.temperature, settings.margin, mask, answer_BN[:, n]
        )
        for n in range(query_BN.shape[1])
    ]
    contrast = losses.Contrast(*(torch.stack(column).mean() for column in zip(*map(_fields, parts), strict=True)))
    return contrast.loss + settings.ntp * ntp, contrast, ntp


def _fields(contrast: losses.Contrast) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return contrast.loss, contrast.kept, contrast.positive, contrast.negative


def _anchor_and_ntp(
    towers: Towers, corpus: Corpus, prefix: Any, query_BN: Tensor, answer_BN: Tensor, settings: Pretrain
) -> tuple[Tensor, Tensor]:
    """u_{i,q} [B, N, O] and L_ntp (Eq. 6) from one packed pass; the answers stand behind their own `<USER_EMB>`."""
    answers = corpus.answers if settings.ntp > 0 else None
    suffix_BNSD, mask_BNS = towers.suffixes(prefix, corpus.queries, query_BN, None, answers, answer_BN)
    state_BNSD = towers.read(prefix, suffix_BNSD, mask_BNS)
    if answers is None:
        return towers.head(state_BNSD[:, :, -1], "anchor"), state_BNSD.new_zeros(())
    id_BNT, mask_BNT = answers.take(answer_BN, "right")
    columns = id_BNT.shape[-1]
    user_BNO = towers.head(state_BNSD[:, :, -columns - 1], "anchor")
    before = state_BNSD[:, :, -columns - 1 : -1]  # the state one position before each answer token predicts it
    logits_RV = towers.backbone.get_output_embeddings()(before[mask_BNT])[None]
    token_R = id_BNT[mask_BNT][None]
    return user_BNO, losses.next_token(logits_RV, token_R, torch.ones_like(token_R))


@torch.no_grad()
def validate(towers: Towers, corpus: Corpus, settings: Pretrain, bypass: bool, seed: int) -> float:
    """Mean unmasked contrastive loss on fixed batches of validation users."""
    total = 0.0
    for i in range(VALIDATION_BATCHES):
        drawn = corpus.pairs.draw(np.random.default_rng((seed, 1, i)), settings.batch, settings.pairs)
        total += loss_of(towers, corpus, drawn, settings, bypass, masked=False)[1].loss.item()
    return total / VALIDATION_BATCHES


class Pretraining:
    """One run. `run` yields a `Step` for each step and a `Validation` for each check; stopping early loses nothing.

    A step's batch depends on (seed, phase, step) only, so a resumed run draws what the uninterrupted one would have.
    """

    def __init__(
        self, towers: Towers, train: Corpus, validation: Corpus, settings: Pretrain, seed: int, folder: Path
    ) -> None:
        self.towers, self.train, self.validation = towers, train, validation
        self.settings, self.seed = settings, seed
        self.checkpoints = Checkpoints(folder)
        self.phases = {"align": settings.align_steps if towers.seeded else 0, "open": settings.steps}

    def run(self) -> Iterator[Step | Validation]:
        """Train from the last checkpoint, or from the start; ends with the best weights loaded.

        Raises:
            TrainingError: a loss that is not finite; the message names the step and the users of its batch.
        """
        names = list(self.phases)
        saved = self.checkpoints.position() or Position(names[0], 0, math.inf)
        best = saved.best
        for phase in names[names.index(saved.phase) :]:
            for done in self._phase(phase, saved.step if phase == saved.phase else 0, best):
                best = done.best if isinstance(done, Validation) else best
                yield done
        self.checkpoints.load_best(self.towers)

    def _phase(self, phase: str, first: int, best: float) -> Iterator[Step | Validation]:
        steps, settings = self.phases[phase], self.settings
        bypass = phase == "align"
        # what align has learned is not to be shaken off by the first steps of an open backbone
        peak = settings.lr * (OPEN_LR if self.phases["align"] and not bypass else 1)
        masters = Masters(self.towers)
        optimiser = torch.optim.AdamW(masters.parameters, lr=peak, weight_decay=WEIGHT_DECAY)
        if first:
            self.checkpoints.load(self.towers, optimiser)
            masters.publish()
        self.towers.train()
        for step in range(first, steps):
            for group in optimiser.param_groups:
                group["lr"] = peak * _schedule(step, steps)
            yield self._step(phase, step, optimiser, masters, bypass)
            if (step + 1) % settings.validate_every == 0 or step + 1 == steps:
                loss = validate(self.towers, self.validation, settings, bypass, self.seed)
                if loss < best:
                    best = loss
                    self.checkpoints.save_best(self.towers)
                self.checkpoints.save(self.towers, optimiser, Position(phase, step + 1, best))
                yield Validation(phase, step + 1, loss, best)

    def _step(self, phase: str, step: int, optimiser: torch.optim.Optimizer, masters: Masters, bypass: bool) -> Step:
        settings = self.settings
        rng = np.random.default_rng((self.seed, list(self.phases).index(phase), step))
        drawn = self.train.pairs.draw(rng, settings.batch, settings.pairs)
        # On an untrained model Eq. 5 can drop every negative (design, section 7): it is switched on after a warm-up.
        masked = not bypass and step >= settings.mask_after * self.phases[phase]
        loss, contrast, ntp = loss_of(self.towers, self.train, drawn, settings, bypass, masked)
        if not torch.isfinite(loss):
            users = ", ".join(map(str, self.train.profiles.user_ids[drawn.profile_B][:8]))
            raise TrainingError(
                f"loss is {loss.item()} at step {step} of {phase}, users {users}...; expected a finite number: "
                "lower `training.pretrain.lr`, or look at these users' values"
            )
        torch.autograd.backward(loss)
        masters.collect()
        torch.nn.utils.clip_grad_norm_(masters.parameters, 1.0)
        optimiser.step()
        masters.publish()
        return Step(
            phase,
            step + 1,
            *(x.item() for x in (loss, contrast.loss, ntp, contrast.kept, contrast.positive, contrast.negative)),
        )


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))
