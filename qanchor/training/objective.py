"""The joint objective L = L_cl + L_ntp (section 3.2.2) of a batch that is spread over chunks and ranks.

Contrast needs the whole batch, memory allows a part of it. So a step is taken in two stages (gradient caching):

1. every rank projects its users, chunk by chunk, without a graph; the projections of all are put together, centred and
   contrasted, on every rank alike, which gives the gradient with respect to each projection;
2. chunk by chunk again, now with a graph, the cached gradient and that of next-token prediction go back to the weights.

A single chunk keeps its graph from the first stage and is read once. Loss and gradients are those of the plain step.

Shapes: B users of the batch, C of a chunk, N questions each, T answer tokens, O width of a projection (all streams of
an embedding); 2 is the two towers, users first.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from qanchor.config import Pretrain
from qanchor.model import losses
from qanchor.model.head import STREAMS
from qanchor.model.towers import Towers
from qanchor.training.corpus import Chunk, Corpus
from qanchor.training.masters import Masters
from qanchor.training.pairs import PairBatch
from qanchor.training.ranks import Ranks

LOGITS = 256
"""Answer tokens whose predictions are made at once: their fp32 logits over the vocabulary stay in a CPU's cache."""


@dataclass(frozen=True)
class Gathered:
    """What all ranks know of a batch after its first stage."""

    projection_2BNO: Tensor
    text_BN: Tensor
    """A number that equal answers share."""
    words: Tensor
    """Answer tokens of the batch."""


@dataclass(frozen=True)
class Measured:
    """The loss whose gradient the masters now hold (before anything is stepped), with its parts."""

    contrast: losses.Contrast
    """Means over the questions."""
    ntp: Tensor
    loss: Tensor
    projection_2BNO: Tensor
    tokens: int
    """Read by this rank."""


@dataclass(frozen=True)
class Seen:
    """Embeddings of a batch, centred by it, and their unmasked contrast."""

    contrast: losses.Contrast
    user_BNO: Tensor
    answer_BNO: Tensor
    text_BN: Tensor
    spread: Tensor
    """Mean variance of the users' projections, before they are centred."""


class Objective:
    def __init__(self, towers: Towers, corpus: Corpus, settings: Pretrain, ranks: Ranks) -> None:
        self.towers, self.corpus, self.settings, self.ranks = towers, corpus, settings, ranks
        self.end = len(towers.prompt) + 1

    def backward(self, drawn: PairBatch, bypass: bool, masked: bool, masters: Masters, noise: int) -> Measured:
        """Leave the gradient of the whole batch's loss in `masters`, the same on every rank.

        Args:
            bypass: read with the backbone bypassed, without next-token prediction (the align phase).
            masked: whether the mask of Eq. 5 is on.
            noise: seed of dropout, where the model has any: both stages draw the same.
        """
        chunks = self.chunks(drawn)
        with torch.set_grad_enabled(len(chunks) == 1):
            read = [self._read(chunk, bypass, noise) for chunk in chunks]
        gathered = self._gather(drawn, chunks, [projection_2CNO for projection_2CNO, _ in read])
        projection_2BNO = gathered.projection_2BNO.requires_grad_()
        contrast, _ = self._contrast(gathered, self.settings.mask if masked else "none")
        (gradient_2BNO,) = torch.autograd.grad(self.settings.contrast * contrast.loss, projection_2BNO)

        ntp = torch.zeros((), device=self.towers.device)
        for c, chunk in enumerate(chunks):
            projection_2CNO, ntp_sum = read[c] if len(chunks) == 1 else self._read(chunk, bypass, noise)
            part = ntp_sum / gathered.words.clamp(min=1)
            own = (projection_2CNO * gradient_2BNO[:, chunk.place_C]).sum()
            torch.autograd.backward(own + self.settings.ntp * part)
            masters.collect()
            ntp += part.detach()
        self.ranks.sum([ntp])
        masters.sum(self.ranks)
        loss = self.settings.contrast * contrast.loss.detach() + self.settings.ntp * ntp
        return Measured(contrast, ntp, loss, projection_2BNO.detach(), sum(chunk.tokens for chunk in chunks))

    @torch.no_grad()
    def look(self, drawn: PairBatch, bypass: bool) -> Seen:
        """A batch as it is now: no mask, no gradient, and no trace in the model."""
        self.towers.eval()
        chunks = self.chunks(drawn)
        gathered = self._gather(drawn, chunks, [self._read(chunk, bypass)[0] for chunk in chunks])
        contrast, embedding_2BNO = self._contrast(gathered, "none")
        user_BNO = gathered.projection_2BNO[0]
        spread = (user_BNO - user_BNO.mean(0)).square().mean()
        self.towers.train()
        return Seen(contrast, *embedding_2BNO, gathered.text_BN, spread)

    def flops(self, drawn: PairBatch, bypass: bool) -> float:
        """What a token costs, forward and backward, counted on a chunk of this batch; 0 where this rank has no users.

        Work that is done twice to save memory counts once.
        """
        chunks = self.chunks(drawn)[:1]
        weights = [parameter for parameter in self.towers.parameters() if parameter.requires_grad]
        with FlopCounterMode(display=False) as counter:
            for chunk in chunks:
                projection_2CNO, ntp = self._read(chunk, bypass)
                forward = counter.get_total_flops()
                torch.autograd.grad(projection_2CNO.sum() + ntp, weights, allow_unused=True)
        again = forward if chunks and self.settings.checkpointing and not bypass else 0
        return (counter.get_total_flops() - again) / sum(chunk.columns for chunk in chunks) if chunks else 0.0

    def chunks(self, drawn: PairBatch) -> list[Chunk]:
        return self.corpus.chunks(drawn, self.settings.chunk, self.end, self.towers.device)

    def _read(self, chunk: Chunk, bypass: bool, noise: int = 0) -> tuple[Tensor, Tensor]:
        """Projections [2, C, N, O] of a chunk, and the summed next-token loss of its answers (0 without a graph)."""
        towers, corpus = self.towers, self.corpus
        if towers.modalities != corpus.profiles.modalities:  # a run may read more than one team's logs
            towers.call(corpus.profiles.modalities)
        torch.manual_seed(noise + int(chunk.place_C[0]))
        with autocast(towers):
            prefix = towers.prefix(chunk.batch, corpus.texts)
            if bypass:
                both = towers.aligned(prefix, corpus.queries, chunk.query_CN, corpus.answers, chunk.answer_CN)
                return torch.stack(both), both[0].new_zeros(())
            answer_CNO = towers.answer(corpus.answers, chunk.answer_CN)
            user_CNO, ntp = self._read_users(prefix, chunk)
        return torch.stack([user_CNO, answer_CNO]), ntp

    def _read_users(self, prefix: Any, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Projections [C, N, O] at `<USER_EMB>` and the summed loss of Eq. 6, from one packed pass.

        A user's pairs share its prefix; the answers stand behind their own `<USER_EMB>`.
        """
        towers = self.towers
        answers = self.corpus.answers if self.settings.ntp > 0 and towers.training else None
        suffixes, told = towers.suffixes(prefix, self.corpus.queries, chunk.query_CN, None, answers, chunk.answer_CN)
        told_CNY = told.stream_BNY if told else None
        if answers is None:
            state_CN1D = towers.read(prefix, suffixes, slice(-1, None))
            user_CNO = towers.head.project(state_CN1D[:, :, 0], told_CNY)
            return user_CNO, user_CNO.new_zeros((), dtype=torch.float32)
        id_CNT, mask_CNT = answers.take(chunk.answer_CN, "right")
        # the state one position before each answer token predicts it: the first one is <USER_EMB>, the last one nobody
        before_CNTD = towers.read(prefix, suffixes, slice(-id_CNT.shape[-1] - 1, -1))
        user_CNO = towers.head.project(before_CNTD[:, :, 0], told_CNY)
        if not torch.is_grad_enabled():
            return user_CNO, user_CNO.new_zeros(())
        project, parts = towers.backbone.get_output_embeddings(), []
        both = torch.split(before_CNTD[mask_CNT], LOGITS), torch.split(id_CNT[mask_CNT], LOGITS)
        for before_RD, token_R in zip(*both, strict=True):
            mean = losses.next_token(project(before_RD)[None], token_R[None], torch.ones_like(token_R)[None])
            parts.append(mean * len(token_R))
        return user_CNO, torch.stack(parts).sum()

    def _gather(self, drawn: PairBatch, chunks: list[Chunk], read: list[Tensor]) -> Gathered:
        """Put the batch together: every rank fills in the rows of its own users, and the sum over ranks is all."""
        device, (users, questions) = self.towers.device, drawn.topic_BN.shape
        dtype = self.towers.head.linear.weight.dtype
        projection_2BNO = torch.zeros(2, users, questions, len(STREAMS) * self.towers.dim, dtype=dtype, device=device)
        for chunk, projection_2CNO in zip(chunks, read, strict=True):
            projection_2BNO[:, chunk.place_C] = projection_2CNO.detach()
        text_BN = torch.zeros(users, questions, dtype=torch.long)
        text_BN[drawn.place_L] = torch.from_numpy(drawn.text_LN)
        text_BN = text_BN.to(device)
        words = torch.tensor(self.corpus.answer_tokens[drawn.answer_LN].sum(), device=device)
        self.ranks.sum([projection_2BNO, text_BN, words])
        return Gathered(projection_2BNO, text_BN, words)

    def _contrast(self, gathered: Gathered, mask: losses.Mask) -> tuple[losses.Contrast, tuple[Tensor, Tensor]]:
        """Eq. 3 in each column of the batch, the mean over columns, and the embeddings of both towers."""
        settings, head = self.settings, self.towers.head
        user_BNO = head.among(gathered.projection_2BNO[0], "anchor")
        answer_BNO = head.among(gathered.projection_2BNO[1], "answer")
        parts = []
        for n in range(user_BNO.shape[1]):
            other_BXO = torch.cat([user_BNO[:, :n], user_BNO[:, n + 1 :]], 1) if settings.other_query else None
            parts.append(
                losses.contrastive(
                    user_BNO[:, n],
                    answer_BNO[:, n],
                    settings.temperature,
                    settings.margin,
                    mask,
                    gathered.text_BN[:, n],
                    other_BXD=other_BXO,
                )
            )
        means = (torch.stack(column).mean() for column in zip(*map(_fields, parts), strict=True))
        return losses.Contrast(*means), (user_BNO, answer_BNO)


def _fields(contrast: losses.Contrast) -> tuple[Tensor, ...]:
    return contrast.loss, contrast.kept, contrast.positive, contrast.negative, contrast.plateau


def autocast(towers: Towers) -> contextlib.AbstractContextManager[Any]:
    """The fp32 parts around the backbone multiply in what it computes in."""
    return torch.autocast(towers.device.type, torch.bfloat16, enabled=towers.dtype == torch.bfloat16)
