"""The one YAML of a project, validated once at the door; inside the house nothing is checked again.

One class per section. Every class is frozen and refuses keys that it does not know, naming the nearest right one.
Paths in the file are relative to the file's own folder.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qanchor.errors import ConfigError
from qanchor.recipes import RECIPES, over


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Source(Section):
    """One kind of log file. Each row becomes one event (`text`), or one event per column (`features`)."""

    path: str
    """File or glob, relative to the YAML: `raw/bills/*.parquet`; or in a bucket: `s3://bucket/bills/*.parquet`."""
    format: Literal["auto", "parquet", "csv", "jsonl"] = "auto"
    """`auto` goes by the file's ending (.parquet, .csv, .csv.gz, .jsonl, .ndjson)."""
    user: str
    """Column of the user's id."""
    time: str
    """Column of the event's time: a timestamp, a date, epoch seconds, or text."""
    time_format: str | None = None
    """strptime format of a text time column; left out, ISO 8601 and epoch seconds are understood."""
    modality: str
    """Name of the modality that these rows belong to; several sources may share one."""
    text: str | None = None
    """Template over columns, `"{category} at {merchant}"`. `{amount:band}` prints a number as a 1-2-5 band."""
    features: tuple[str, ...] = ()
    """Instead of `text`: tabular columns; a text column becomes "column: value", a number goes to `value`."""
    category: str | None = None
    """Template of the event's coarse category; left out, the modality's name."""
    value: str | None = None
    """Column of a number kept beside the event (an amount, a duration)."""

    @model_validator(mode="after")
    def _text_or_features(self) -> Source:
        if (self.text is None) == (not self.features):
            raise ValueError("give either `text` (a template) or `features` (a list of columns)")
        return self


class Modality(Section):
    """How a modality is read into the prefix."""

    events: Annotated[int, Field(ge=0)] = 24
    """K_m of Eq. 2: the most recently seen distinct texts, kept as tokens of their own with their counts."""
    lookback_days: Annotated[int, Field(ge=1)] | None = None
    """The lookback window of this modality; left out, `windows.lookback_days`."""


class Windows(Section):
    """When users are looked at. Nothing at or after an `as_of` reaches its prefix (D3)."""

    lookback_days: Annotated[int, Field(ge=1)] = 90
    predict_days: Annotated[int, Field(ge=1)] = 30
    train: tuple[dt.date, ...]
    """as_of days of training users."""
    validation: tuple[dt.date, ...]
    """as_of days of validation users."""
    test: tuple[dt.date, ...]
    """as_of days of test users: their prediction windows start no earlier than the last training window ends."""

    @model_validator(mode="after")
    def _test_is_later(self) -> Windows:
        for name in ("train", "validation", "test"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty: give at least one as_of day")
        last = max(self.train + self.validation) + dt.timedelta(days=self.predict_days)
        if min(self.test) < last:
            raise ValueError(
                f"`test` starts on {min(self.test)}, inside the prediction window of a training or validation as_of; "
                f"the first clean day is {last}"
            )
        return self


class Users(Section):
    """Who is split off by a stable hash of the user's id, so that no test user is seen in training."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.3
    min_events: Annotated[int, Field(ge=1)] = 1
    """A user is part of the population at an as_of with at least so many events in the lookback window."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most so many users an as_of are used for training and evaluation (a stable sample by the id's hash)."""


class Filter(Section):
    """Which events a rule speaks of; every given condition must hold."""

    modality: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    text: str | None = None
    """Regular expression searched in the event's text (Rust syntax, `(?i)` for any case)."""
    min_value: float | None = None
    max_value: float | None = None


class Rule(Section):
    """A yes/no label from events: measure the matching future events, compare with a number.

    `{where: {category: [fuel]}, measure: count, at_least: 1}` asks for one fuel payment in the prediction window.
    With `per_past: true` the measure is divided by the same measure over the lookback window (per day), so that
    `below: 0.5` reads "less than half of before"; a user whose past measure is 0 is then not eligible.
    """

    where: Filter = Filter()
    measure: Literal["count", "days", "distinct", "sum", "mean", "max"] = "count"
    """`distinct` counts different texts, `days` active days; `sum`, `mean`, `max` are over `value`."""
    at_least: float | None = None
    below: float | None = None
    per_past: bool = False
    eligible: Filter | None = None
    """Only users with a matching event in the *lookback* window are asked; the others have no label."""
    future_only: bool = False
    """Only users with some matching future event (of `where`) are asked: needed by `mean` and `max`."""

    @model_validator(mode="after")
    def _one_comparison(self) -> Rule:
        if (self.at_least is None) == (self.below is None):
            raise ValueError("give exactly one of `at_least` and `below`")
        return self


class Statements(Section):
    """What a scenario asks, as phrases about the user: "books a hotel". One of the two is enough."""

    positive: str | None = None
    """True of the user when the answer is yes,"""
    negative: str | None = None
    """or when it is no: "makes a payment" of a card that is asked whether it will lie unused."""

    @model_validator(mode="after")
    def _say_something(self) -> Statements:
        said = [phrase for phrase in (self.positive, self.negative) if phrase is not None]
        if not said or not all(phrase.strip() for phrase in said):
            raise ValueError("give `positive`, `negative` or both, each a phrase such as 'books a hotel'")
        return self


class Scenario(Section):
    query: str
    """The question in plain words; it goes to the end of the prefix and anchors the embedding."""
    label: Rule | None = None
    labels: str | None = None
    """Parquet or CSV file of `user_id, as_of, label` (0 or 1); rows that are missing have no label."""
    statements: Statements | None = None
    """For an answer without any label, by what the user's embedding lies near to (docs/search.md)."""

    @model_validator(mode="after")
    def _one_kind(self) -> Scenario:
        if (self.label is None) == (self.labels is None):
            raise ValueError("give either `label` (a rule over future events) or `labels` (a file)")
        return self


class LLM(Section):
    """A server that speaks the OpenAI API (vLLM, Ollama, a vendor's) and writes D_uqa; see docs/useru-llm.md."""

    base_url: str
    """`http://localhost:8000/v1`, `https://api.openai.com/v1`; the key comes from the environment, never from here."""
    model: str
    """The model's name as the server knows it."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; it may be unset for a server that asks for none."""
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 64
    """Users in flight, each with one request at a time."""
    timeout_s: Annotated[float, Field(gt=0)] = 60
    """Seconds until a whole reply must be there."""
    max_retries: Annotated[int, Field(ge=0, le=20)] = 5
    """A request is asked again at most so many times, whatever was wrong with its reply."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    max_lines: Annotated[int, Field(ge=1)] = 60
    """A profile is sent as at most so many lines, one a distinct text."""
    redact: tuple[str, ...] = ()
    """Regular expressions (Python syntax); what they match in a text is blotted out before it is sent."""
    price_in: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million prompt tokens, in the currency of `budget`."""
    price_out: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million completion tokens."""
    budget: Annotated[float, Field(gt=0)] | None = None
    """All runs over one journal together never cost more than this; needs prices."""

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str) -> str:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"got {url!r}, expected an address such as http://localhost:8000/v1")
        if address.username or address.password:
            raise ValueError("holds a user name or password: put the key into the variable that `key_env` names")
        return url

    @field_validator("redact")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                empty = re.search(pattern, "")
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
            if empty:
                raise ValueError(f"{pattern!r} matches the empty text: write what must be there (+ instead of *)")
        return patterns


class UserU(Section):
    """What the model is pretrained on (section 3.1)."""

    language: Literal["en", "zh"] = "en"
    topics: str | None = None
    """A JSON file of topics, relative to the YAML; left out, the package's 72."""
    llm: LLM | None = None
    """Who writes D_uqa; left out, the package's own phrases over computed facts."""
    future: Annotated[int, Field(ge=1)] = 7
    """Pairs of D_future per (user, as_of): the summary, and futures of single concepts."""
    uqa: Annotated[int, Field(ge=0)] = 10
    """Pairs of D_uqa per (user, as_of): the topics with the strongest evidence in the user's profile."""
    shared: Annotated[int, Field(ge=0)] = 9
    """Further pairs of D_uqa, on topics that a whole cohort is asked, whatever a user's own evidence."""
    empty_future: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of users with an empty prediction window that are kept in D_future."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training users that pretraining learns from: a smaller one is part of a larger. Who is tuned, probed
    and validated on stays as it is, so that a study of data scale (Table 7) changes nothing else."""


class Lora(Section):
    rank: Annotated[int, Field(ge=1)] = 64
    alpha: Annotated[float, Field(gt=0)] = 32


class Model(Section):
    """Which backbone reads the prefix, and how wide the house is."""

    backbone: str = "embedded"
    """`embedded` (small, trained whole, no download), or a Hugging Face decoder by name or folder."""
    first_layers: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many layers of a pretrained backbone: the start of a small body."""
    lora: Lora | None = Lora()
    """LoRA on all linear projections of a pretrained backbone; `null` trains it whole."""
    text_encoder: str = "embedded"
    """`embedded` (character n-gram hashing), or a Hugging Face sentence encoder by name or folder."""
    text_lora: Lora | None = None
    """LoRA on all linear projections of a pretrained text encoder; left out, it is frozen."""
    dim: Annotated[int, Field(ge=8)] = 128
    prompt_tokens: Annotated[int, Field(ge=0)] = 6
    """Soft-prompt vectors; with none, tuning has nothing but prototypes to learn."""
    anchor: Literal["auto", "attention", "constant"] = "auto"
    """What `<USER_EMB>` starts from: a query-to-prefix attention, or a learned constant (the paper's way).
    `auto`: attention for the embedded backbone, constant for a pretrained one."""
    event_features: bool = False
    """Whether an event is also told its value, its hour and day, and its gap to the newest event. Without, as in Eq. 1,
    it is its text, and is read once however often it occurs (decision 0007). A `start` keeps its own."""
    user_token: bool = True
    modality_tokens: bool = True
    """Without one or both, the prefix of Eq. 2 lacks them: rows of Tables 3 and 6."""
    prefix_attention: Literal["causal", "hybrid"] = "causal"
    """`hybrid` lets each token of the prefix see all of it, also what comes later; suffixes stay causal."""
    hidden: Annotated[int, Field(ge=32)] = 256
    layers: Annotated[int, Field(ge=1)] = 1
    """`hidden` and `layers` size the embedded backbone only."""
    start: str | None = None
    """Weights that an embedded backbone starts from: `qanchor-small`, which ships with the package, or a folder. They
    pay on logs like those they were trained on; on most others a fresh start has been better (docs/results.md)."""


class Pretrain(Section):
    align_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps with the backbone bypassed (`anchor: attention` only). Left out, 40 to 400, until half of the training
    users are seen: later, their futures are learned by heart, which misleads a probe that is fitted on them."""
    steps: Annotated[int, Field(ge=0)] = 40
    """Steps of the whole model after that."""
    batch: Annotated[int, Field(ge=2)] = 64
    """Users a step."""
    pairs: Annotated[int, Field(ge=1)] = 4
    """Question-answer pairs a user and step; they share one prefix."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    temperature: Annotated[float, Field(gt=0)] = 0.07
    margin: float = 0.1
    mask: Literal["eq5", "demo", "none"] = "eq5"
    """Eq. 5's mask, the four masks of the authors' demo, or none."""
    mask_after: Annotated[float, Field(ge=0, le=1)] = 0.3
    """The mask is switched on after this share of the steps."""
    mixed: bool = False
    """Each user of a batch is asked questions of its own (the paper's way), instead of all users the same ones."""
    other_query: bool = False
    """The same user's embeddings for the batch's other queries are negatives of the user-user term, too."""
    contrast: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the contrast (Eq. 3); the align phase has nothing else to learn from."""
    ntp: Annotated[float, Field(ge=0)] = 1.0
    """Weight of next-token prediction (Eq. 6)."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Tokens of a forward pass (padding included): memory goes with it, and not with the batch (gradient caching; the
    result is the same). Left out, a batch is one pass."""
    checkpointing: bool = False
    """Keep only the layers' inputs for the backward pass and compute the rest again: less memory, a third more time."""
    compile: bool = False
    """Compile the backbone's layers (`torch.compile`, needs a C++ compiler): on a CPU the open phase starts a minute or
    two later and goes a fifth faster, so that it pays from a few hundred steps of it on."""
    validate_every: Annotated[int, Field(ge=1)] = 100

    @model_validator(mode="after")
    def _something_to_learn(self) -> Pretrain:
        if self.contrast == 0 and (self.align_steps != 0 or self.ntp == 0):
            raise ValueError("`contrast: 0` leaves nothing to learn: set `align_steps: 0` and `ntp` above 0")
        return self


class Tune(Section):
    steps: Annotated[int, Field(ge=1)] = 200
    batch: Annotated[int, Field(ge=2)] = 16
    """Users of a scenario a step, as many of each class."""
    lr: Annotated[float, Field(gt=0)] = 3e-2
    temperature: Annotated[float, Field(gt=0)] = 0.07
    validate_every: Annotated[int, Field(ge=1)] = 100
    cache_gb: Annotated[float, Field(ge=0)] = 4
    """GiB of memory that the users' prefixes may take; past that they are kept on disk, in the run folder."""


class Training(Section):
    seed: int = 0
    pretrain: Pretrain = Pretrain()
    tune: Tune = Tune()


class Config(Section):
    """The whole file."""

    name: str
    recipe: str = "cpu-small"
    """Named defaults of `model` and `training`, under what this file says itself: see docs/training.md."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    modalities: dict[str, Modality] = {}
    """Settings of modalities that differ from the defaults; every source's modality exists without being named."""
    windows: Windows
    users: Users = Users()
    scenarios: dict[str, Scenario] = {}
    storage: str | None = None
    """Where the event store and the embeddings lie: `s3://bucket/folder`, or a folder relative to the YAML; left out,
    the run folder. All else stays in the run folder."""
    encrypt: bool = False
    """Seal profiles, embeddings and appended events at rest (AES-256-GCM) by the master key that the environment names;
    what that leaves in the clear: docs/security.md."""
    shards: Annotated[int, Field(ge=1, le=4096)] = 4
    max_reject_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    """A day whose share of refused rows is above this is not published."""
    useru: UserU = UserU()
    model: Model = Model()
    training: Training = Training()
    root: Path = Field(default=Path(), exclude=True)
    """Folder of the YAML; set by `load`."""

    @model_validator(mode="before")
    @classmethod
    def _over_recipe(cls, data: Any) -> Any:
        """The file's own keys over those of its recipe, key by key."""
        name = data.get("recipe", cls.model_fields["recipe"].default) if isinstance(data, dict) else None
        if not isinstance(name, str):
            return data
        if name not in RECIPES:
            raise ValueError(f"there is no recipe {name!r}{_nearest(name, RECIPES)}")
        return over(data, RECIPES[name])

    @model_validator(mode="after")
    def _names_agree(self) -> Config:
        known = set(self.modality_names)
        named = [(f"modalities.{m}", m) for m in self.modalities]
        for name, scenario in self.scenarios.items():
            rule = scenario.label
            for part in (rule.where, rule.eligible) if rule else ():
                named += [(f"scenarios.{name}.label", m) for m in (part.modality if part else ())]
        for where, modality in named:
            if modality not in known:
                raise ValueError(f"`{where}` names the modality {modality!r}{_nearest(modality, known)}")
        return self

    @property
    def modality_names(self) -> tuple[str, ...]:
        """All modalities, in the order in which the sources first name them."""
        return tuple(dict.fromkeys(source.modality for source in self.sources))

    def modality(self, name: str) -> Modality:
        return self.modalities.get(name, Modality())

    def lookback_days(self, name: str) -> int:
        return self.modality(name).lookback_days or self.windows.lookback_days


def load(path: Path) -> Config:
    """Read and validate a `qanchor.yaml`.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds an unknown, missing or impossible key; the message
            names the key by its dotted path and the nearest right one.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config at {path}: write one with `qanchor init LOGS...`") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}, expected a mapping with `name`, `sources`, `windows`")
    return parse(data, path.parent.resolve(), str(path))


def parse(data: dict[str, Any], root: Path, origin: str = "config") -> Config:
    """Validate a config given as a plain dictionary. Raises ConfigError like `load`."""
    try:
        return Config.model_validate({**data, "root": root})
    except ValidationError as error:
        raise ConfigError("; ".join(f"{origin}: {_explain(item)}" for item in error.errors())) from None


def _explain(item: Any) -> str:
    """One pydantic error as one sentence that names the key and the remedy."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        section = _section_at(item["loc"][:-1])
        return f"unknown key `{where}`{_nearest(str(item['loc'][-1]), section.model_fields.keys() - {'root'})}"
    if item["type"] == "missing":
        return f"missing key `{where}`"
    message = item["msg"].removeprefix("Value error, ")
    return f"`{where}`: {message}" if where else message


def _section_at(location: tuple[int | str, ...]) -> type[Section]:
    """The section class that a pydantic error location leads to."""
    section: type[Section] = Config
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _section_in(arg))), None)


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; known are {', '.join(sorted(known))}"
