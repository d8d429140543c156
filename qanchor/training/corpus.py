"""One split, ready to be drawn from, and its batches in chunks of a token budget.

Shapes: N profiles of this rank, M modalities, L users of a batch that are this rank's, C of a chunk, N questions each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qanchor.events.profiles import Profiles
from qanchor.model.batch import Batch, collate, prefix_tokens
from qanchor.model.towers import Tokens, Towers
from qanchor.training.pairs import Ints, PairBatch, Pairs


@dataclass(frozen=True)
class Chunk:
    """Some of this rank's users of a batch, read in one forward pass."""

    place_C: Ints
    """Which users of the whole batch they are."""
    batch: Batch
    query_CN: Tensor
    answer_CN: Tensor
    tokens: int
    """Tokens of their prefixes and suffixes, and of the answers that the semantic tower reads,"""
    columns: int
    """and the same with padding."""


@dataclass(frozen=True)
class Corpus:
    """Profiles, pairs, and their texts indexed for the towers."""

    profiles: Profiles
    pairs: Pairs
    texts: Any
    queries: Tokens
    answers: Tokens
    kept: Ints
    """[M] event tokens kept of each modality."""

    @classmethod
    def of(cls, towers: Towers, profiles: Profiles, pairs: Pairs, kept: Ints, texts: Any) -> Corpus:
        queries, answers = towers.tokens(pairs.queries, "left"), towers.tokens(pairs.answers, "right")
        return cls(profiles, pairs, texts, queries, answers, kept)

    @cached_property
    def prefix_N(self) -> Ints:
        return prefix_tokens(self.profiles, self.kept)

    @cached_property
    def query_tokens(self) -> Ints:
        lengths: Ints = self.queries.mask_RL.sum(1).cpu().numpy()
        return lengths

    @cached_property
    def answer_tokens(self) -> Ints:
        lengths: Ints = self.answers.mask_RL.sum(1).cpu().numpy()
        return lengths

    def chunks(self, drawn: PairBatch, budget: int | None, end: int, device: torch.device) -> list[Chunk]:
        """This rank's users of a batch, in as few passes as a budget of tokens (padding included) allows.

        Users go by length, so that little of a chunk is padding; without a budget all are one chunk. A budget bounds
        memory whatever the users' lengths, which a number of users does not.

        Args:
            end: columns of a suffix beside its query and answer: soft prompt and `<USER_EMB>`.
        """
        if not len(drawn.place_L):
            return []
        if budget is None:
            return [self._chunk(drawn, np.arange(len(drawn.place_L)), end, device)]
        columns_L = self._columns(drawn, np.arange(len(drawn.place_L)), end)
        parts: list[Ints] = []
        rest = np.argsort(-columns_L, kind="stable")
        while len(rest):
            users = max(1, budget // int(columns_L[rest[0]]))
            parts, rest = [*parts, rest[:users]], rest[users:]
        return [self._chunk(drawn, rows, end, device) for rows in parts]

    def _columns(self, drawn: PairBatch, rows: Ints, end: int) -> Ints:
        """Columns that each user of a chunk of `rows` takes beside its own prefix, as long as the longest's, plus that.

        An answer stands behind its query for next-token prediction, and once more, with an end, in the semantic tower.
        """
        query, answer = self.query_tokens[drawn.query_LN[rows]].max(), self.answer_tokens[drawn.answer_LN[rows]].max()
        columns: Ints = self.prefix_N[drawn.profile_L[rows]] + drawn.query_LN.shape[1] * (query + end + 2 * answer + 1)
        return columns

    def _chunk(self, drawn: PairBatch, rows: Ints, end: int, device: torch.device) -> Chunk:
        query_CN, answer_CN, profile_C = drawn.query_LN[rows], drawn.answer_LN[rows], drawn.profile_L[rows]
        suffixes = self.query_tokens[query_CN].sum() + 2 * self.answer_tokens[answer_CN].sum()
        return Chunk(
            drawn.place_L[rows],
            collate(self.profiles, profile_C, self.kept),
            torch.from_numpy(query_CN).to(device),
            torch.from_numpy(answer_CN).to(device),
            tokens=int(self.prefix_N[profile_C].sum() + suffixes + query_CN.size * (end + 1)),
            columns=int(self._columns(drawn, rows, end).max() * len(rows)),
        )
