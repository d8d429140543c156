"""The model as the service asks it: users' prefixes from memory or read now, any suffixes over them (D7).

Shapes: B users of a pass, G suffixes of each, K prompt vectors, D width, M modalities, O = 128.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.errors import DataError, QAnchorError
from qanchor.events.profiles import Texts
from qanchor.inference import reading
from qanchor.inference.attention import modality_attention
from qanchor.inference.engine import BATCH_TOKENS, QAnchor
from qanchor.inference.reading import Reading
from qanchor.inference.search import direction
from qanchor.model import persistence
from qanchor.model.batch import collate
from qanchor.model.prompts import Prompts, SoftPrompt
from qanchor.serving import warm
from qanchor.serving.live import Live, Word, joined, table_of, unknown
from qanchor.serving.warm import Warm
from qanchor.training.pretrain import autocast
from qanchor.useru.statements import Framing

Floats = npt.NDArray[np.float32]
QUERY_SETS = 256
"""Sets of questions whose tokens are kept."""


@dataclass(frozen=True)
class Suffix:
    """A question behind the prefix: a tuned scenario goes by its soft prompt, any other by the shared one."""

    query: str
    tuned: str | None = None
    """The scenario's name."""


@dataclass(frozen=True)
class Ask:
    """One user, and the questions about it."""

    live: Live
    suffixes: tuple[Suffix, ...]


class Reader:
    """One model over one text table. For one thread: the model's."""

    def __init__(self, model: QAnchor, texts: Texts, warm_bytes: int, framing: Framing) -> None:
        self.model, self.texts, self.framing = model, texts, framing
        self.indexed = model.towers.text_encoder.index(texts.described)
        self.vocabulary = persistence.vocabulary(model.towers)
        self.mentions = self.vocabulary.mentions(texts)
        self.warm = Warm(warm_bytes)
        self.hits = self.misses = 0
        self._kept = persistence.kept_events(model.towers)
        self._tokens = lru_cache(QUERY_SETS)(lambda queries: model.towers.tokens(queries, "left"))

    def embed(self, asks: Sequence[Ask], words: Mapping[int, Word]) -> list[Floats | str]:
        """For each of `asks` [G, O] unit-length embeddings, or why there are none.

        A user whom the model cannot read fails alone: halves of a batch that fails are tried until it is by itself.

        Args:
            words: texts that the store's table has not, by their ids.
        """
        return _each(lambda some: self._embed(some, words), asks)

    def attend(self, asks: Sequence[Ask], words: Mapping[int, Word]) -> list[Floats | str]:
        """For each of `asks` [G, M] shares of attention by modality (`inference/attention.py`), or why there are none.

        Prefixes are read anew: this watches the model at work, and is for a person who looks at one user.
        """
        return _each(lambda some: self._attend(some, words), asks)

    def answer(self, sentence: str) -> Floats:
        """[O] along which users lie of whom a phrase is true, by the semantic tower."""
        return direction(self.model, self.framing, sentence)

    def _embed(self, asks: Sequence[Ask], words: Mapping[int, Word]) -> list[Floats]:
        readings = self._readings([ask.live for ask in asks], words)
        found: list[Floats] = [np.empty(0, np.float32)] * len(asks)
        by_count: defaultdict[int, list[int]] = defaultdict(list)
        for n, ask in enumerate(asks):
            by_count[len(ask.suffixes)].append(n)
        with torch.inference_mode(), autocast(self.model.towers):
            for rows in by_count.values():
                for part in self._parts(rows, asks, readings):
                    embedding_BGO = self._suffixes([asks[n].suffixes for n in part], [readings[n] for n in part])
                    for n, embedding_GO in zip(part, embedding_BGO.float().cpu().numpy(), strict=True):
                        found[n] = embedding_GO
        return found

    def _attend(self, asks: Sequence[Ask], words: Mapping[int, Word]) -> list[Floats]:
        lives = [ask.live for ask in asks]
        profiles = joined(lives, self.model.towers.modalities, table_of(lives, self.texts, words))
        found: list[Floats] = [np.empty(0, np.float32)] * len(asks)
        by_suffixes: defaultdict[tuple[Suffix, ...], list[int]] = defaultdict(list)
        for n, ask in enumerate(asks):
            by_suffixes[ask.suffixes].append(n)
        for suffixes, rows in by_suffixes.items():
            tuned = [suffix.tuned for suffix in suffixes if suffix.tuned is not None]
            free = [suffix.query for suffix in suffixes if suffix.tuned is None]
            share_BGM = modality_attention(self.model, profiles.take(np.array(rows)), tuned, free)
            # tuned ones come first there
            order = np.argsort([suffix.tuned is None for suffix in suffixes], kind="stable")
            for n, share_GM in zip(rows, share_BGM[:, np.argsort(order)], strict=True):
                found[n] = share_GM
        return found

    def _readings(self, lives: Sequence[Live], words: Mapping[int, Word]) -> list[Reading]:
        keys = [live.key for live in lives]
        found = {key: one for key in keys if (one := self.warm.get(key))}
        cold = {key: live for key, live in zip(keys, lives, strict=True) if key not in found}
        self.hits += len(lives) - len(cold)
        self.misses += len(cold)
        known = [key for key, live in cold.items() if not len(unknown(live, self.texts))]
        for own, group in ((False, known), (True, [key for key in cold if key not in set(known)])):
            if group:
                found |= self._read({key: cold[key] for key in group}, words if own else None)
        return [found[key] for key in keys]

    def _read(self, lives: Mapping[warm.Key, Live], words: Mapping[int, Word] | None) -> dict[warm.Key, Reading]:
        """Prefixes with keys and values; with `words`, over a small table of these users' texts."""
        towers, users = self.model.towers, list(lives.values())
        texts = self.texts if words is None else table_of(users, self.texts, words)
        indexed = self.indexed if words is None else towers.text_encoder.index(texts.described)
        mentions = self.mentions if words is None else self.vocabulary.mentions(texts)
        profiles = joined(users, towers.modalities, texts)
        with torch.inference_mode(), autocast(towers):
            batch = collate(profiles, np.arange(len(users)), self._kept, mentions=mentions)
            prefix = towers.prefix(batch, indexed)
            readings = list(reading.read(towers, prefix))
        for key, one in zip(lives, readings, strict=True):
            self.warm.put(key, one)
        return dict(zip(lives, readings, strict=True))

    def _parts(self, rows: Sequence[int], asks: Sequence[Ask], readings: Sequence[Reading]) -> list[list[int]]:
        """Users of like length together, each part within the token budget."""
        order = sorted(rows, key=lambda n: -len(readings[n]))
        width = 40 * len(asks[rows[0]].suffixes)
        parts: list[list[int]] = []
        while order:
            size = max(1, BATCH_TOKENS[self.model.towers.device.type] // (len(readings[order[0]]) + width))
            parts.append(order[:size])
            order = order[size:]
        return parts

    def _suffixes(self, suffixes: Sequence[tuple[Suffix, ...]], readings: Sequence[Reading]) -> Tensor:
        """[B, G, O]."""
        towers = self.model.towers
        distinct = list(dict.fromkeys(suffix for own in suffixes for suffix in own))
        queries = list(dict.fromkeys(suffix.query for suffix in distinct))
        tokens: Any = self._tokens(tuple(queries))
        prompts = Prompts.of([self._prompt(suffix) for suffix in distinct], towers.prompt)
        place = {suffix: row for row, suffix in enumerate(distinct)}
        row_BG = torch.tensor([[place[suffix] for suffix in own] for own in suffixes], device=towers.device)
        query_R = torch.tensor([queries.index(suffix.query) for suffix in distinct], device=towers.device)
        alike = len(set(suffixes)) == 1
        own = prompts.take(row_BG[:1] if alike else row_BG)
        part = reading.batch(readings)
        return towers.anchor(part.prefix, tokens, query_R[row_BG], own, part.layers, part.contents)

    def _prompt(self, suffix: Suffix) -> SoftPrompt | None:
        if suffix.tuned is None:
            return None
        if suffix.tuned not in self.model.prompts:
            raise DataError(f"the model has no soft prompt for {suffix.tuned!r}: tune it, or ask its query instead")
        return self.model.prompts[suffix.tuned]


def _each(work: Callable[[Sequence[Ask]], list[Floats]], asks: Sequence[Ask]) -> list[Floats | str]:
    """What `work` finds for each, or why it finds nothing: halves of a batch that fails are tried by themselves."""
    try:
        found = work(asks)
    except (MemoryError, torch.OutOfMemoryError):
        raise  # the machine's fault, not a user's
    except Exception as error:
        if len(asks) == 1:
            return [str(error) if isinstance(error, QAnchorError) else "the model cannot read this user"]
        half = len(asks) // 2
        return _each(work, asks[:half]) + _each(work, asks[half:])
    odd = "what the model says is not a finite number: look at the values of the user's events"
    return [each if np.isfinite(each).all() else odd for each in found]
