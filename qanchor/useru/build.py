"""Building the data set: who is asked what, by whom, and where it is put."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl

from qanchor.config import Config
from qanchor.events.profiles import Profiles
from qanchor.useru import dataset
from qanchor.useru.survey import Survey
from qanchor.useru.synthesis.synthesize import synthesize
from qanchor.useru.topics import Pool

Bar = Callable[[str, int | None], AbstractContextManager[Callable[[int, str], None]]]
"""Opens a progress bar of a name and a total; what it gives is told how many more are done, and a note."""


def build(config: Config, past: Profiles, future: Profiles, folder: Path, bar: Bar) -> dict[str, Any]:
    """D_future and D_uqa of all keys of `past` and `future` into `folder`; returns the data card.

    D_uqa is an LLM's where the config names one, else the survey's own. An LLM's answers stay in a journal in `folder`:
    a rerun asks it only about the rest.

    Raises:
        DataError: no keys, or keys that differ; an LLM that stopped answering.
        BudgetError: the LLM's next user could cost more than is left; who is done is kept.
        ConfigError: an LLM that takes no request of ours.
    """
    facts: dict[str, Any] = {"language": config.useru.language, "answers": "embedded"}
    told: list[dataset.Part] = []
    if config.useru.llm:
        with bar("synthesis", len(past)) as synthesised:
            pairs, outcome = synthesize(config, past, pool(config), folder, synthesised)
        facts |= {"answers": config.useru.llm.model, "synthesis": outcome.told()}
        told = [dataset.Part(pairs.with_columns(cohort=pl.lit(None, pl.Int32)), 0, Counter())]
        config = _with(config, uqa=0, shared=0)
    survey = Survey(config, past, future, config.training.seed)

    with bar("useru", len(past)) as surveyed:

        def parts() -> Iterator[dataset.Part]:
            for part in survey.run(workers=len(os.sched_getaffinity(0))):
                surveyed(part.keys, "")
                yield part
            yield from told

        return dataset.write(parts(), folder, facts)


def pool(config: Config) -> Pool:
    """The topics that D_uqa may ask about. Raises ConfigError for a file that holds none."""
    return Pool.load(config.root / config.useru.topics if config.useru.topics else None)


def within(config: Config, budget: float | None) -> Config:
    """The config with another budget for the LLM, if there is both."""
    if budget is None or config.useru.llm is None:
        return config
    return _with(config, llm=config.useru.llm.model_copy(update={"budget": budget}))


def _with(config: Config, **settings: Any) -> Config:
    return config.model_copy(update={"useru": config.useru.model_copy(update=settings)})
