"""What an LLM may reply in each step, checked before anything is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qanchor.errors import DataError
from qanchor.useru.topics import LifeTopic

LONGEST = 300
"""Characters of a complaint, which is sent back to the LLM."""


class ReplyError(DataError):
    """A reply that is not what was asked for; the message is fit to be sent back."""


class Part(BaseModel):
    # the schema that a server is given allows no other keys; where it takes no schema, what is too much is ignored
    model_config = ConfigDict(frozen=True, json_schema_extra={"additionalProperties": False})


class Reply(Part):
    def check(self, topics: Sequence[str], count: int) -> None:
        """Raises ReplyError unless the reply fits what was asked: about `topics`, `count` of them."""


class Topics(Reply):
    topics: list[str]

    def check(self, topics: Sequence[str], count: int) -> None:
        _offered(self.topics, topics)
        if len(set(self.topics)) != count or len(self.topics) != count:
            raise ReplyError(f"got {len(set(self.topics))} different keys, expected exactly {count}")


class Question(Part):
    topic: str
    query: str


class Questions(Reply):
    questions: list[Question]

    def check(self, topics: Sequence[str], count: int) -> None:
        _each_once([question.topic for question in self.questions], topics)
        if empty := [question.topic for question in self.questions if not question.query.strip()]:
            raise ReplyError(f"the questions on {', '.join(empty)} are empty")


class Answer(Part):
    topic: str
    answer: str
    lines: list[int]


class Answers(Reply):
    answers: list[Answer]

    def check(self, topics: Sequence[str], count: int) -> None:
        _each_once([answer.topic for answer in self.answers], topics)


class Verdict(Part):
    topic: str
    reason: str
    verdict: Literal["keep", "revise", "drop"]
    answer: str
    lines: list[int]


class Reflection(Reply):
    reflection: list[Verdict]

    def check(self, topics: Sequence[str], count: int) -> None:
        _each_once([verdict.topic for verdict in self.reflection], topics)


class Keep(Reply):
    keep: list[str]

    def check(self, topics: Sequence[str], count: int) -> None:
        _offered(self.keep, topics)


class NewTopics(Reply):
    topics: list[LifeTopic]

    def check(self, topics: Sequence[str], count: int) -> None:
        """`topics` are those that there are already."""
        keys = [topic.key for topic in self.topics]
        if known := [key for number, key in enumerate(keys) if key in topics or key in keys[:number]]:
            raise ReplyError(f"the keys {', '.join(known)} are in the pool already: write other topics")


R = TypeVar("R", bound=Reply)


@cache
def schema(kind: type[Reply]) -> dict[str, Any]:
    """The JSON Schema of a reply, as servers are given it."""
    return kind.model_json_schema()


def read(kind: type[R], text: str, topics: Sequence[str], count: int) -> R:
    """The reply in what the LLM wrote: one JSON object, whatever stands around it.

    Raises:
        ReplyError: there is none, it has another shape, or it speaks of other topics.
    """
    try:
        reply = kind.model_validate_json(_longest_object(text))
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        raise ReplyError(f"`{'.'.join(map(str, item['loc'])) or 'the reply'}`: {item['msg']}"[:LONGEST]) from None
    try:
        reply.check(topics, count)
    except ReplyError as error:
        raise ReplyError(str(error)[:LONGEST]) from None
    return reply


def _longest_object(text: str) -> str:
    """The longest JSON object in a text; a model's thoughts before it, and a code fence around it, do no harm."""
    found = max(_objects(text.rpartition("</think>")[2]), key=len, default="")
    if not found:
        raise ReplyError("got no complete JSON object, expected exactly one")
    return found


def _objects(text: str) -> Iterator[str]:
    """Each JSON object that is not inside another, from left to right."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            _, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield text[place:end]
        place = text.find("{", end)


def _offered(keys: Sequence[str], topics: Sequence[str]) -> None:
    if unknown := [key for key in keys if key not in topics]:
        raise ReplyError(f"there is no topic {', '.join(unknown)}: use keys of the list as they are written")


def _each_once(keys: Sequence[str], topics: Sequence[str]) -> None:
    if sorted(keys) != sorted(topics):
        raise ReplyError(f"got the topics {', '.join(keys)}; expected each of these once: {', '.join(topics)}")
