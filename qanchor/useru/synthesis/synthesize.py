"""D_uqa by an LLM: every user is interviewed once, many at a time, within a budget, and killed runs go on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qanchor.config import LLM, Config
from qanchor.errors import ConfigError, DataError
from qanchor.events.profiles import Profiles
from qanchor.useru.synthesis.client import Client, UnansweredError
from qanchor.useru.synthesis.interview import Findings, Interview
from qanchor.useru.synthesis.journal import COUNTS, KEY, Journal, tally
from qanchor.useru.synthesis.ledger import Ledger, Tally
from qanchor.useru.synthesis.profile_text import ProfileText, profile_texts
from qanchor.useru.synthesis.redact import Redactor
from qanchor.useru.topics import Pool

PATIENCE = 10
"""So many users in a row without a pair (or all that are in flight) end a run: something is wrong with the server."""
SAMPLE = 256
"""Users whose prompts are measured for an estimate."""

Progress = Callable[[int, str], None]
"""Called with users done and a note."""


@dataclass(frozen=True)
class Outcome:
    """What all runs over one journal have come to, for the users asked for."""

    users: int
    done: int
    """Users with pairs."""
    set_aside: dict[str, int]
    """Users without, by step and reason: "answer: malformed", "no events"."""
    kept: int
    revised: int
    dropped: int
    """Answers by the reflection's verdict."""
    unsupported: int
    """Answers that cited no line, or one that is not there."""
    blots: int
    """How often `redact` or a user's id was blotted out of a text."""
    took: Tally
    cost: float

    def told(self) -> dict[str, Any]:
        """As a plain dictionary, for JSON."""
        told = vars(self) | self.took.told()
        del told["took"]
        return told


@dataclass(frozen=True)
class Estimate:
    """What asking about all users would take, about."""

    users: int
    """Those with events."""
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


def estimate(config: Config, past: Profiles, pool: Pool) -> Estimate:
    """The requests, tokens and cost of all users, from the prompts of some; nothing is sent.

    Tokens are guessed from letters, and the replies taken to be as long as the prompts ask for.

    Raises:
        ConfigError: the config has no `useru.llm`.
    """
    settings, interview = _settings(config), Interview(config, pool)
    rows = np.flatnonzero(past.counts)
    sample = past.take(rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))] if len(rows) else rows)
    total = Tally()
    for profile in profile_texts(config, sample, Redactor(settings.redact, past.user_ids), settings.max_lines):
        total.add(interview.usual(profile))
    share = len(rows) / max(1, len(sample))
    requests, prompt, completion = (
        round(n * share) for n in (total.requests, total.prompt_tokens, total.completion_tokens)
    )
    return Estimate(len(rows), requests, prompt, completion, Tally(requests, prompt, completion).cost(settings))


def synthesize(
    config: Config,
    past: Profiles,
    pool: Pool,
    folder: Path,
    progress: Progress | None = None,
    backoff_s: float = 1.0,
) -> tuple[pl.DataFrame, Outcome]:
    """Ask an LLM about every key of `past` (lookback windows) that the journal in `folder` does not have yet.

    Returns the pairs (see `collect`) and what it all came to. After a Ctrl-C or a kill it asks for the rest the next
    time; another model, prompt or pool starts a journal of its own. `backoff_s`: the first wait after a failed request.

    Raises:
        ConfigError: no `useru.llm`, no `openai` package, or the server takes no request of ours (key, model, option).
        BudgetError: the next user could cost more than is left of `budget`.
        DataError: the server stopped answering, another run is writing to the journal, or it is damaged.
    """
    settings, interview = _settings(config), Interview(config, pool)
    with _journal(folder, settings, interview) as journal:
        ledger = Ledger(settings, journal.spent)
        profiles = profile_texts(config, past, Redactor(settings.redact, past.user_ids), settings.max_lines)
        run = Run(settings, interview, journal, ledger, progress or (lambda users, note: None), backoff_s)
        asyncio.run(run.over(profiles))
    return collect(config, past, pool, folder)


def collect(config: Config, past: Profiles, pool: Pool, folder: Path) -> tuple[pl.DataFrame, Outcome]:
    """What the journal in `folder` has of the keys of `past`; nothing is sent. For after a stop, by budget or by hand.

    The pairs are in the order of `past`: user_id, as_of, source ("uqa"), topic ("life/KEY"), query, answer, support
    (the lines of the profile that the answer cites, as they were sent). Raises ConfigError, DataError as `synthesize`.
    """
    settings, interview = _settings(config), Interview(config, pool)
    profiles = profile_texts(config, past, Redactor(settings.redact, past.user_ids), settings.max_lines)
    asked = pl.DataFrame(
        [(profile.user_id, profile.as_of, profile.digest) for profile in profiles],
        schema=dict(zip(KEY, (pl.String, pl.Int64, pl.String), strict=True)),
        orient="row",
    )
    with _journal(folder, settings, interview) as journal:
        lines = journal.lines()
    latest = asked.join(lines.unique(KEY, keep="last", maintain_order=True), on=KEY, how="left", maintain_order="left")
    pairs = (
        latest.select("user_id", "as_of", "pairs")
        .explode("pairs")
        .drop_nulls("pairs")
        .unnest("pairs")
        .select(
            "user_id",
            (pl.col("as_of") * 1_000_000).cast(pl.Datetime("us")),
            pl.lit("uqa").alias("source"),
            ("life/" + pl.col("topic")).alias("topic"),
            "query",
            "answer",
            "support",
        )
    )
    return pairs, _outcome(latest, tally(lines), settings)


class Run:
    """One run over some users: as many workers as there may be users in flight, all taking from one queue."""

    def __init__(
        self,
        settings: LLM,
        interview: Interview,
        journal: Journal,
        ledger: Ledger,
        progress: Progress,
        backoff_s: float,
    ) -> None:
        self.settings, self.interview, self.journal, self.ledger = settings, interview, journal, ledger
        self.progress, self.backoff_s = progress, backoff_s
        self.set_aside = self.in_a_row = 0

    async def over(self, profiles: Iterator[ProfileText]) -> None:
        """Ask about all that are not finished. Raises as `synthesize`; what is in flight then is dropped."""
        async with Client(self.settings, self.backoff_s) as client:
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self.settings.concurrency):
                        workers.create_task(self._work(client, profiles))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _work(self, client: Client, profiles: Iterator[ProfileText]) -> None:
        for profile in profiles:
            if self.journal.finished(profile):
                pass
            elif not profile.lines:
                self.journal.add(profile, Findings(), Tally(), "no events")
            else:
                await self._ask(client, profile)
            self.progress(1, f"{self.ledger.cost:.2f} spent, {self.set_aside} without pairs")

    async def _ask(self, client: Client, profile: ProfileText) -> None:
        """One user, from a place in the budget to a line in the journal."""
        price = await self.ledger.admit(self.interview.worst(profile, self.settings.max_retries))
        took = Tally()
        try:
            findings = await self.interview.run(client, profile, took)
        except UnansweredError as error:
            self.journal.add(profile, Findings(), took, error.reason, error.detail, error.again)
            self._count(False, str(error))
        except BaseException:
            self.journal.add(profile, Findings(), took, "interrupted", again=True)
            raise
        else:
            reason = "" if findings.pairs else "no supported answer"
            self.journal.add(profile, findings, took, reason)
            self._count(bool(findings.pairs), reason)
        finally:
            await self.ledger.settle(price, took)

    def _count(self, good: bool, reason: str) -> None:
        """Raises DataError when nothing has come of many users in a row."""
        self.set_aside += not good
        self.in_a_row = 0 if good else self.in_a_row + 1
        if self.in_a_row >= max(PATIENCE, self.settings.concurrency):
            raise DataError(
                f"stopped: the last {self.in_a_row} users gave no pair, most recently for {reason}; "
                f"look at {self.settings.base_url} and {self.settings.model}, then run again for the rest"
            )


def _settings(config: Config) -> LLM:
    if config.useru.llm is None or not config.useru.uqa:
        raise ConfigError("no LLM is asked for: set `useru.llm` (base_url, model), and `useru.uqa` above 0")
    return config.useru.llm


def _journal(folder: Path, settings: LLM, interview: Interview) -> Journal:
    """The journal of what is asked and who is; what is sent of a user is part of the user's line."""
    made_of = json.dumps([interview.digest, settings.model, settings.temperature])
    return Journal(folder / f"llm-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.jsonl")


def _outcome(latest: pl.DataFrame, took: Tally, settings: LLM) -> Outcome:
    """`latest`: the last line of every key, null where there is none."""
    reasons = latest.select(pl.col("reason").fill_null("not asked")).filter(pl.col("reason") != "")
    set_aside = dict(reasons["reason"].value_counts().sort("count", "reason", descending=[True, False]).iter_rows())
    counts = latest.select(pl.col(COUNTS).sum()).row(0, named=True)
    return Outcome(len(latest), len(latest) - len(reasons), set_aside, **counts, took=took, cost=took.cost(settings))
