"""`qanchor init`: look at a team's log files and write a commented `qanchor.yaml` that runs.

What is ambiguous is said in a comment beside the choice; what cannot be found is refused rather than invented.
"""

from __future__ import annotations

import datetime as dt
import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from qanchor.errors import DataError
from qanchor.events import atomic
from qanchor.events.columns import Guess
from qanchor.events.logs import Log, find, slug

EPOCH = dt.date(1970, 1, 1)
PREDICT_DAYS, LOOKBACK_DAYS, TRAIN_DAYS = 30, 90, 6
"""The most that is asked for; shorter logs get shorter windows and fewer training days."""

USUAL_REFUSALS = 0.002
"""Above this share of refused rows some day will pass the default `max_reject_rate`."""


@dataclass(frozen=True)
class Span:
    """When users can be looked at, so that training, validation and test each have whole windows."""

    lookback: int
    predict: int
    train: list[dt.date]
    test: dt.date


def write(logs: Sequence[Path], out: Path, force: bool = False) -> None:
    """Write the sketch of `logs` to `out`.

    Raises:
        DataError: as `sketch`; or `out` exists and `force` is not set.
    """
    if out.exists() and not force:
        raise DataError(f"{out} exists: choose another name with --out, or replace it with --force")
    atomic.write(out, sketch(logs, out.parent).encode())


def sketch(paths: Sequence[Path], root: Path = Path()) -> str:
    """The YAML for these log files (a folder stands for the files in it); its paths are relative to `root`.

    Raises:
        DataError: no file, an unreadable one, one without a user or a time column, or too few days for any window.
    """
    logs, labels = find(paths)
    span = _span([log for log in logs if not log.tabular] or logs)
    lines = [
        "# Sketched by `qanchor init`: guesses from the first rows of each file. Read it, mend it, then run it.",
        f"name: {_scalar(slug(root.resolve().name) or 'logs')}",
        "",
        "sources:",
        *(line for log in logs for pattern in _patterns(log.paths, root) for line in _source(log, pattern)),
        "",
        *_windows(span),
        *_lookbacks(logs, span),
        *_tolerance(logs),
        "",
        *_scenarios(logs, span),
        *_labelled(labels, root),
    ]
    return "\n".join(lines) + "\n"


def _span(logs: list[Log]) -> Span:
    first, last = min(log.first for log in logs), max(log.last for log in logs)
    days = last - first + 1
    if days < 3:
        raise DataError(
            f"the logs hold {days} day(s), {_date(first)} to {_date(last)}: at least 3 are needed, to look back, to "
            "learn what follows and to test it later; add files of other days"
        )
    predict = min(PREDICT_DAYS, max(1, days // 5))
    lookback = min(LOOKBACK_DAYS, days - 2 * predict)
    test = last + 1 - predict
    train = list(range(test - predict, first + lookback - 1, -predict))[:TRAIN_DAYS]
    return Span(lookback, predict, [_date(day) for day in reversed(train)], _date(test))


def _date(day: int) -> dt.date:
    return EPOCH + dt.timedelta(days=day)


def _source(log: Log, pattern: str) -> Iterator[str]:
    reading = log.reading
    yield f"  - path: {_scalar(pattern)}  # {_date(log.first)} to {_date(log.last)}"
    yield f"    user: {_choice(log.user)}"
    yield f"    time: {_choice(log.time)}"
    if reading.time_format:
        yield f"    time_format: {_choice(Guess(reading.time_format, reading.other_formats))}"
    yield f"    modality: {_scalar(log.modality)}"
    if log.tabular:
        yield f"    features: [{', '.join(map(_scalar, reading.texts + reading.numbers))}]"
        yield "    # one row a user: each column becomes an event at the row's time; check that it was known by then"
    else:
        yield f"    text: {_scalar(_template(log))}"
        if reading.category:
            braced = [f"{{{name}}}" for name in (reading.category.column, *reading.category.others)]
            yield f"    category: {_choice(Guess(braced[0], tuple(braced[1:])))}"
        if reading.value:
            yield f"    value: {_choice(reading.value)}"
    used = reading.numbers if log.tabular else ()
    yield from (f"    # left out: {name} ({why})" for name, why in reading.left_out.items() if name not in used)


def _template(log: Log) -> str:
    texts = log.reading.texts
    if len(texts) < 2:
        return f"{{{texts[0]}}}" if texts else f"{log.modality.replace('_', ' ')} event"
    return ", ".join(f"{name.replace('_', ' ')}: {{{name}}}" for name in texts)


def _patterns(paths: list[Path], root: Path) -> Iterator[str]:
    """One glob for all files of a log, if it finds no others; else each by itself. Relative to the YAML's folder."""
    folder, names = paths[0].parent, [path.name for path in paths]
    start = os.path.commonprefix(names)  # noqa: RUF071 (of letters, not of path parts)
    start = re.sub(r"[\W\d_]+$", "", start)  # months to come have other numbers
    together = f"{glob.escape(start)}*{paths[0].suffix}"
    alone = len(paths) > 1 and set(folder.glob(together)) == set(paths)
    for name in [together] if alone else map(glob.escape, names):
        yield _relative(folder / name, root)


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _windows(span: Span) -> list[str]:
    train = ", ".join(map(str, span.train))
    return [
        "windows:",
        f"  lookback_days: {span.lookback}",
        f"  predict_days: {span.predict}",
        f"  train: [{train}]",
        f"  validation: [{span.train[-1]}]",
        f"  test: [{span.test}]  # its {span.predict} days are the last that the logs hold",
    ]


def _lookbacks(logs: list[Log], span: Span) -> Iterator[str]:
    """Tables of what users are reach further back than their acts, or nobody would be seen with one."""
    if tables := [log for log in logs if log.tabular]:
        yield "modalities:"
    for log in tables:
        days = max((span.test - _date(log.first)).days, span.lookback)
        yield f"  {_scalar(log.modality)}: {{lookback_days: {days}}}"


def _tolerance(logs: list[Log]) -> Iterator[str]:
    """Rows without a user are refused, and a day with many of them is not published unless that is allowed."""
    worst = max(logs, key=lambda log: log.refused)
    if worst.refused > USUAL_REFUSALS:
        lacking = (
            f"{worst.refused:.0%} of the rows of {worst.modality} have no {worst.user.column} or {worst.time.column}"
        )
        yield f"max_reject_rate: 1.0  # {lacking}: they are refused; lower this once they are mended"


def _scenarios(logs: list[Log], span: Span) -> Iterator[str]:
    """Examples to start from: activity in each modality, silence, and an amount to fill in."""
    within = f"in the next {span.predict} days" if span.predict > 1 else "in the next day"
    yield "# Examples. A label is a rule over the events of the prediction window, or a file of user_id, as_of, label."
    yield "scenarios:"
    acted = [log for log in logs if not log.tabular]
    for log in acted or logs:
        yield from _scenario(
            f"any_{log.modality}",
            f"Will the user have any {log.modality} event {within}?",
            f"{{where: {{modality: [{_scalar(log.modality)}]}}, at_least: 1}}",
        )
    yield from _scenario("inactive", f"Will the user have no event at all {within}?", "{below: 1}")
    for log in [log for log in acted if log.reading.value][:1]:
        yield f"  # much_{log.modality}:"
        yield f"  #   query: Will the {log.modality} of the user come to more than 1,000 {within}?"
        yield f"  #   label: {{where: {{modality: [{log.modality}]}}, measure: sum, at_least: 1000}}"


def _labelled(labels: list[Path], root: Path) -> Iterator[str]:
    for path in labels:
        name = slug(path.name.split(".")[0])
        yield f"  {_scalar(name)}:"
        yield f"    query: {_scalar(f'Will the user be {name}?')}  # say in words what the labels mean"
        yield f"    labels: {_scalar(_relative(path, root))}"


def _scenario(name: str, query: str, label: str) -> list[str]:
    return [f"  {_scalar(name)}:", f"    query: {_scalar(query)}", f"    label: {label}"]


def _choice(guess: Guess) -> str:
    others = ", ".join(map(_scalar, guess.others))
    return _scalar(guess.column) + (f"  # also possible: {others}" if others else "")


def _scalar(text: str) -> str:
    """Plain where YAML reads it back as the same text, else in quotes."""
    plain = re.fullmatch(r"[\w./*-][\w ./*?-]*", text) and not text.startswith(("*", "-"))
    return text if plain and yaml.safe_load(text) == text else json.dumps(text, ensure_ascii=False)
