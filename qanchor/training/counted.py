"""What counting alone says of a scenario: lines and a forest over the tally, which no model changes.

A tally is a user's events, counted; nothing of it is learned. So what is fitted on it is fitted once for a scenario's
labels and serves every model: those of another seed, size or UserU, and the next one that is pretrained.

Shapes: N users, R rows of a sample, Y numbers of a tally, C classes that are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save
from threadpoolctl import threadpool_limits

from qanchor.events import atomic
from qanchor.events.profiles import Profiles
from qanchor.model.batch import FOR_FORESTS, FOR_LINES, PACE, STEPS, collate
from qanchor.model.vocabulary import WORDS, Vocabulary
from qanchor.training import forests, lines
from qanchor.training.forests import Forest
from qanchor.training.lines import Lines
from qanchor.training.sample import Sample

CHUNK = 200
"""Users counted at once."""

PARTS: dict[str, Any] = {"lines": Lines, "words": Lines, "forest": Forest}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Counted:
    lines: Lines
    """Of what is told step by step."""
    words: Lines
    forest: Forest

    def save(self, path: Path) -> None:
        """As safetensors, in one step."""
        arrays = {f"{part}/{name}": of for part in PARTS for name, of in vars(getattr(self, part)).items()}
        atomic.write(path, save(arrays))

    @classmethod
    def load(cls, path: Path) -> Counted:
        arrays = load_file(path)
        parts = ({f.name: arrays[f"{part}/{f.name}"] for f in fields(of)} for part, of in PARTS.items())
        return cls(*(of(**part) for of, part in zip(PARTS.values(), parts, strict=True)))

    @classmethod
    def silent(cls, sample: Sample) -> Counted:
        """What a model without user token, to which a tally says nothing, has in its place."""
        told_CJ = np.zeros((len(sample.label_CR), len(sample.judged)), np.float32)

        def lines(width: int) -> Lines:
            zero_V = np.zeros(width, np.float32)
            return Lines(zero_V, zero_V, np.zeros((len(told_CJ), width), np.float32), told_CJ)

        return cls(lines(PACE + STEPS), lines(WORDS), Forest.bare(told_CJ))


def fit_all(
    past: Profiles, vocabulary: Vocabulary, samples: Mapping[str, Sample], folder: Path, threads: int
) -> Iterator[str]:
    """The scenarios of these samples of the profiles, as each is in `folder`; what a killed run left there stays.

    Raises:
        TrainingError: LightGBM cannot be loaded.
    """
    left = {name: sample for name, sample in samples.items() if not (folder / f"{name}.safetensors").exists()}
    yield from (name for name in samples if name not in left)
    if not left:
        return
    users = np.unique(np.concatenate([sample.row_R for sample in left.values()]))
    tally_NY = tallies(past.take(users), vocabulary)

    def fit(name: str) -> str:
        own = np.searchsorted(users, left[name].row_R)
        fitted(tally_NY[own], left[name]).save(folder / f"{name}.safetensors")
        return name

    # one thread each: fits that set and restore the limit would do so under one another
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(fit, left)


def tallies(profiles: Profiles, vocabulary: Vocabulary) -> Floats:
    """[N, Y] of users."""
    mentions = vocabulary.mentions(profiles.texts)
    shown = np.zeros(len(profiles.modalities), np.int64)  # no tokens are asked for
    chunks = (np.arange(start, min(start + CHUNK, len(profiles))) for start in range(0, len(profiles), CHUNK))
    return np.concatenate([collate(profiles, rows, shown, mentions=mentions).tally_BW.numpy() for rows in chunks])


def fitted(tally_RY: Floats, sample: Sample) -> Counted:
    """Raises TrainingError: LightGBM cannot be loaded."""
    steps_RV, words_RV = np.split(tally_RY[:, FOR_LINES], [PACE + STEPS], 1)
    forest = forests.grown(tally_RY[:, FOR_FORESTS], sample)
    return Counted(lines.fitted(steps_RV, sample), lines.fitted(words_RV, sample), forest)
