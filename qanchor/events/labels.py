"""Yes/no labels of a scenario: by a rule over events (`config.Rule`), or from a file.

Shapes: N profiles, E events of all of them, T distinct texts.
"""

from __future__ import annotations

import difflib

import numpy as np
import numpy.typing as npt
import polars as pl

from qanchor import storage
from qanchor.config import Config, Filter, Rule
from qanchor.errors import ConfigError, DataError
from qanchor.events import times
from qanchor.events.profiles import DAY, Profiles
from qanchor.events.rows import user_ids
from qanchor.events.verbalise import number
from qanchor.storage import Place

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def label(config: Config, name: str, past: Profiles, future: Profiles) -> npt.NDArray[np.float32]:
    """[N] 1 or 0; NaN where the user is not asked (not eligible) or has no label.

    Args:
        past, future: the lookback and the prediction windows of the same N keys.

    Raises:
        ConfigError: there is no scenario `name`, or its `text` is not a regular expression.
        DataError: the labels file is missing, lacks a column, or holds a label that is not 0 or 1, or a key twice.
    """
    if name not in config.scenarios:
        close = difflib.get_close_matches(name, config.scenarios, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(config.scenarios) or 'none'}"
        raise ConfigError(f"no scenario `{name}`; {hint}")
    scenario = config.scenarios[name]
    if scenario.label is None:
        return _from_file(storage.place(str(scenario.labels), config.root), past)
    lookback = [config.lookback_days(modality) for modality in past.modalities]
    return _by_rule(scenario.label, past, future, lookback, config.windows.predict_days)


def _by_rule(
    rule: Rule, past: Profiles, future: Profiles, lookback: list[int], predict_days: int
) -> npt.NDArray[np.float32]:
    matching = _matches(rule.where, future)
    measured = _measure(rule, future, matching)
    asked = ~np.isnan(measured)
    if rule.per_past:
        before, days = _past_measure(rule, past, lookback)
        asked &= before > 0
        extent = 1.0 if rule.measure in ("mean", "max") else days / predict_days
        measured = np.divide(measured, before, out=np.full(len(before), np.nan), where=asked) * extent
    if rule.future_only:
        asked &= _count(future, matching) > 0
    if rule.eligible is not None:
        asked &= _count(past, _matches(rule.eligible, past)) > 0
    yes = measured < rule.below if rule.below is not None else measured >= (rule.at_least or 0.0)
    return np.where(asked, yes, np.nan).astype(np.float32)


def _past_measure(rule: Rule, past: Profiles, lookback: list[int]) -> tuple[Floats, int]:
    """The measure over the lookback window, and that window's days.

    Where the modalities that the rule speaks of look back differently far, the shortest window counts for all.
    """
    spoken = rule.where.modality or past.modalities
    days = min(lookback[past.modalities.index(modality)] for modality in spoken)
    recent = past.time >= past.as_of[past.owner] - days * DAY
    return _measure(rule, past, _matches(rule.where, past) & recent), days


def _matches(where: Filter, profiles: Profiles) -> Mask:
    """[E] the events that a filter speaks of; words are compared once per distinct text."""
    texts = profiles.texts
    table = pl.DataFrame({"modality": texts.modality, "category": texts.category, "text": texts.text}, _WORDS)
    conditions = [pl.lit(True)]
    conditions += [pl.col("modality").is_in(where.modality)] if where.modality else []
    conditions += [pl.col("category").is_in(where.category)] if where.category else []
    conditions += [pl.col("text").str.contains(where.text)] if where.text is not None else []
    try:
        spoken = table.with_columns(matches=pl.all_horizontal(conditions))["matches"].to_numpy()
    except pl.exceptions.ComputeError as error:
        raise ConfigError(f"`text: {where.text}` is not a regular expression (Rust syntax): {error}") from None
    mask: Mask = spoken[profiles.text]
    if where.min_value is not None:
        mask = mask & (profiles.value >= np.float32(where.min_value))
    if where.max_value is not None:
        mask = mask & (profiles.value <= np.float32(where.max_value))
    return mask


_WORDS = {"modality": pl.String, "category": pl.String, "text": pl.String}


def _measure(rule: Rule, profiles: Profiles, matching: Mask) -> Floats:
    """[N] the rule's measure of the matching events; `mean` and `max` of nothing are NaN, the others 0."""
    if rule.measure == "count":
        return _count(profiles, matching)
    if rule.measure == "days":
        return _distinct(profiles, matching, profiles.time // DAY)
    if rule.measure == "distinct":
        return _distinct(profiles, matching, profiles.text)
    valued = matching & ~np.isnan(profiles.value)
    # float64 in the canonical order of events: the same sum on every machine (D3b)
    owner, value = profiles.owner[valued], profiles.value[valued].astype(np.float64)
    if rule.measure == "max":
        highest = np.full(len(profiles), -np.inf)
        np.maximum.at(highest, owner, value)
        return np.where(np.isneginf(highest), np.nan, highest)
    total: Floats = np.bincount(owner, weights=value, minlength=len(profiles)).astype(np.float64)
    if rule.measure == "sum":
        return total
    count = _count(profiles, valued)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _count(profiles: Profiles, matching: Mask) -> Floats:
    return np.bincount(profiles.owner[matching], minlength=len(profiles)).astype(np.float64)


def _distinct(profiles: Profiles, matching: Mask, what: npt.NDArray[np.integer]) -> Floats:
    """[N] how many different values `what` [E] takes among a profile's matching events."""
    pairs = np.unique(np.stack([profiles.owner[matching], what[matching]], axis=1).astype(np.int64), axis=0)
    counts: Floats = np.bincount(pairs[:, 0], minlength=len(profiles)).astype(np.float64)
    return counts


def _from_file(path: Place, past: Profiles) -> npt.NDArray[np.float32]:
    """Labels joined on (user_id, day of as_of); NaN where the file has no row."""
    table = _read(path)
    twice = table.select("user_id", "day").is_duplicated().arg_true()
    if len(twice):
        row = int(twice[-1])
        raise DataError(
            f"{path}, row {row + 1}: user {table['user_id'][row]} has a second label for {table['as_of'][row]}; "
            "expected one a user and as_of day: remove one"
        )
    keys = past.keys().select("user_id", day=pl.col("as_of").dt.epoch("s") // DAY)
    joined = keys.join(table, on=["user_id", "day"], how="left", maintain_order="left")
    return joined["label"].cast(pl.Float32).fill_null(np.nan).to_numpy()


def _read(path: Place) -> pl.DataFrame:
    """user_id, as_of, day (since 1970-01-01), label (0 or 1): one row a row of the file."""
    try:
        data = storage.whole(path)
        table = pl.read_parquet(data) if path.suffix == ".parquet" else pl.read_csv(data, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the labels file {path} cannot be read: {str(error).splitlines()[0]}") from None
    for column in ("user_id", "as_of", "label"):
        if column not in table.columns:
            raise DataError(f"{path} has no column `{column}`; found {', '.join(table.columns)}")
    values = number(table["label"])
    day = times.seconds(table["as_of"]) // DAY
    user = user_ids(table["user_id"])
    for what, wrong, expected in (
        ("label", ~((values == 0) | (values == 1)).fill_null(False), "0 or 1 (leave the row out if there is no label)"),
        ("as_of", day.is_null(), "a date such as 2025-05-01"),
        ("user_id", user.is_null(), "a user's id"),
    ):
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise DataError(f"{path}, row {row + 1}: `{what}` is {table[what][row]!r}, expected {expected}")
    return pl.DataFrame({"user_id": user, "as_of": table["as_of"], "day": day, "label": values})
