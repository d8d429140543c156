"""The pool of understanding topics (section 3.1, Appendix A): everyday life, and the words that speak of it.

The package's own pool of 72 topics is `topics.json`, beside this file; a domain may keep one of its own. English
evidence is lower case and singular: a phrase speaks of a text that has all of its words, singular or plural, in any
order (a plural that does not end in a mere s stands beside its singular). Chinese evidence speaks where it is written.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from qanchor.errors import ConfigError
from qanchor.events import atomic

Said = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Several = Annotated[tuple[Said, ...], Field(min_length=1)]


class Wording(BaseModel, frozen=True, extra="forbid"):
    """A topic in one language."""

    name: Said
    """As it stands in "How much of the user's life is about {name}?"."""
    questions: Several
    """What one may ask of anyone, without a placeholder."""
    words: Several
    """Evidence: words and phrases of an event's modality, category or text that speak of the topic."""


class LifeTopic(BaseModel, frozen=True, extra="forbid"):
    key: Annotated[str, StringConstraints(pattern=r"^[a-z]+(_[a-z0-9]+)*$")]
    """snake_case; what files and reports call the topic."""
    en: Wording
    zh: Wording


class Pool(BaseModel, frozen=True, extra="forbid"):
    topics: Annotated[tuple[LifeTopic, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _keys_differ(self) -> Pool:
        keys = [topic.key for topic in self.topics]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"the keys {', '.join(twice)} stand there more than once: rename or merge those topics")
        return self

    @classmethod
    def load(cls, path: Path | None = None) -> Pool:
        """The pool in a JSON file; without a path, the package's own.

        Raises:
            ConfigError: the file is missing or is no pool; the message names the file, the topic and the remedy.
        """
        file = resources.files("qanchor.useru") / "topics.json" if path is None else path
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"cannot read the topics of {file} ({error.strerror}): name a JSON file, or leave the path out for "
                "the package's own topics"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{file} is not JSON in UTF-8 ({error}): mend it, or generate the topics anew") from None
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError("; ".join(f"{file}: {_explain(item, data)}" for item in error.errors())) from None

    def save(self, path: Path) -> None:
        """Write the pool to `path` in one step; the same pool gives the same bytes, one string a line."""
        atomic.write(path, (json.dumps(self.model_dump(), ensure_ascii=False, indent=2) + "\n").encode())


REMEDIES = {
    "missing": "is missing: add it",
    "extra_forbidden": "is not known: remove it",
    "too_short": "is empty: give at least one",
    "string_too_short": "is empty: write something, or remove it",
    "string_pattern_mismatch": "is no snake_case: use a to z, digits and single underscores, as in `public_transport`",
}


def _explain(item: Any, data: Any) -> str:
    """One pydantic error as one sentence that names the topic by its key, the field and the remedy."""
    where, topic = list(item["loc"]), ""
    if len(where) > 2:
        entry = data["topics"][where[1]]
        topic, where = f"topic {entry.get('key', where[1])}: ", where[2:]
    if item["type"] in REMEDIES:
        return f"{topic}`{'.'.join(map(str, where))}` {REMEDIES[item['type']]}"
    if item["type"] == "value_error":
        return str(item["msg"].removeprefix("Value error, "))
    return f"{topic}got {item['input']!r:.60} for `{'.'.join(map(str, where)) or 'the pool'}`: {item['msg']}"
