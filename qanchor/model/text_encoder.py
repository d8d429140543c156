"""Text encoders: from texts to vectors, each distinct text once.

Two of them with one face: `index(texts)` does the slow part once per text table, `forward(indexed, rows)` gives
vectors [R, W] for some of its rows, with gradients where the encoder learns. The embedded one is here; pretrained ones
are in sentence_encoder.py.
"""

from __future__ import annotations

import functools
import itertools
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qanchor.config import Lora


class TextEncoder(nn.Module):
    """What the hierarchy needs of an encoder."""

    width: int
    """W, the length of a text vector."""

    def index(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Any:
        """A text table made ready for this encoder; `progress` is told of every so many texts that are done."""
        raise NotImplementedError

    def forward(self, indexed: Any, rows: Tensor) -> Tensor:
        """[R] row numbers of an indexed table -> [R, W] vectors."""
        raise NotImplementedError

    def read_all(self, indexed: Any) -> Any:
        """What gives the same vectors faster to whoever reads rows many times: all of them [T, W], or `indexed`."""
        return indexed

    def importance(self, indexed: Any) -> Tensor:
        """[T] how much each text of a table says, in (0, 1]: next to nothing for "will" and "the"."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What `load_text_encoder` needs to build this encoder again."""
        raise NotImplementedError


@dataclass(frozen=True)
class NgramTable:
    """Hashed n-grams of every text, one after another: text r owns grams[offsets[r]:offsets[r + 1]]."""

    grams: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1


COMMON = 3e-4
"""Share of all grams at which a gram's weight is halved."""


class NgramEncoder(TextEncoder):
    """The embedded default: weighted mean of learned vectors of hashed words and character n-grams.

    It needs no vocabulary, so that a text never seen in training still gets a vector from its parts, and two texts
    that share words start close to each other before anything is learned. The weights are learned too, and start as
    those of rare grams high and of common ones low (`weigh`), so that "will the user ..." does not drown "concert".
    """

    def __init__(self, width: int = 192, buckets: int = 16_384) -> None:
        super().__init__()
        self.width, self.buckets = width, buckets
        self.vectors = nn.EmbeddingBag(buckets, width, mode="sum", include_last_offset=True)
        self.log_weight = nn.Parameter(torch.zeros(buckets))

    def index(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> NgramTable:
        grams = [_grams(text) for text in texts]
        if progress:
            progress(len(texts))
        offsets = np.concatenate([[0], np.cumsum([len(g) for g in grams], dtype=np.int64)])
        flat = np.fromiter(itertools.chain.from_iterable(grams), np.int64, count=int(offsets[-1])) % self.buckets
        return NgramTable(torch.from_numpy(flat), torch.from_numpy(offsets))

    def forward(self, indexed: NgramTable, rows: Tensor) -> Tensor:
        start, stop = indexed.offsets[rows], indexed.offsets[rows + 1]
        offsets = torch.cat([start.new_zeros(1), (stop - start).cumsum(0)])
        picked = torch.repeat_interleave(start - offsets[:-1], stop - start) + torch.arange(int(offsets[-1]))
        device = self.vectors.weight.device
        gram_G, offsets = indexed.grams[picked].to(device), offsets.to(device)
        weight_G = self.log_weight[gram_G].exp()
        total_R = torch.segment_reduce(weight_G, "sum", offsets=offsets)
        sum_RW = self.vectors(gram_G, offsets, per_sample_weights=weight_G)
        vectors_RW: Tensor = sum_RW / total_R.clamp(min=1e-6)[:, None]
        return vectors_RW

    def read_all(self, indexed: NgramTable) -> Tensor:
        vector_TW: Tensor = self(indexed, torch.arange(len(indexed)))
        return vector_TW

    def importance(self, indexed: NgramTable) -> Tensor:
        device = self.log_weight.device
        weight_G = self.log_weight[indexed.grams.to(device)].exp()
        return torch.segment_reduce(weight_G, "mean", offsets=indexed.offsets.to(device)).clamp(max=1)

    @torch.no_grad()
    def weigh(self, texts: Sequence[str]) -> None:
        """Start the weights at a / (a + p), p a gram's share of the grams of `texts` (smooth inverse frequency)."""
        count = torch.bincount(self.index(texts).grams, minlength=self.buckets).float()
        share = count / count.sum().clamp(min=1)
        self.log_weight.copy_((COMMON / (COMMON + share)).log())

    def settings(self) -> dict[str, Any]:
        return {"kind": "embedded", "width": self.width, "buckets": self.buckets}


_WORDS = re.compile(r"[^\W_]+")


def query_words(text: str) -> list[str]:
    """What events are matched with one by one: the pieces of a query and neighbouring pairs of its words."""
    words = _WORDS.findall(text.lower())
    return list(dict.fromkeys([*pieces(text), *map(" ".join, itertools.pairwise(words))])) or [text]


def pieces(text: str) -> list[str]:
    """Its words; a run of Chinese, which has no blanks, is cut into overlapping pairs of characters."""
    words = _WORDS.findall(text.lower())
    return [piece for word in words for piece in ([word] if word.isascii() or len(word) < 3 else _pairs(word))]


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)]


def _grams(text: str) -> list[int]:
    """Stable hashes of a text's words and their character 3- and 4-grams (beyond ASCII: characters and pairs).

    Neighbouring words are also hashed as one, so that "log in" meets "login".
    """
    words = _WORDS.findall(text.lower())
    grams = [zlib.crc32(b"=" + word.encode()) for word in [*words, *map("".join, itertools.pairwise(words))]]
    for word in words:
        grams += _word_grams(word)
    return grams


@functools.lru_cache(1 << 16)
def _word_grams(word: str) -> list[int]:
    marked = f"<{word}>"
    if word.isascii():
        sizes = (3, 4) if len(word) > 2 else ()
    else:  # a run of Chinese has no blanks: its characters and pairs are its words
        sizes = (1, 2)
        marked = word
    return [zlib.crc32(marked[i : i + size].encode()) for size in sizes for i in range(len(marked) - size + 1)]


def load_text_encoder(name: str, lora: Lora | None = None, vectors: Path | None = None) -> TextEncoder:
    """`embedded`, or a Hugging Face sentence encoder by name or folder, whose vectors are kept in `vectors`.

    Raises:
        ModelError: it cannot be loaded.
    """
    if name == "embedded":
        return NgramEncoder()
    from qanchor.model.sentence_encoder import SentenceEncoder

    return SentenceEncoder(name, lora, vectors)
