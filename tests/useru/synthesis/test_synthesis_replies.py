"""Replies: what is found around thoughts and fences, and what is refused with a message that helps."""

from __future__ import annotations

import json

import pytest
from synthesis_world import KEYS, pool

from qanchor.useru.synthesis.replies import Answers, Keep, NewTopics, Questions, Reflection, ReplyError, Topics, read

ANSWER = {"topic": "tea", "answer": "Green tea.", "lines": [2]}
VERDICT = {"topic": "tea", "reason": "no line", "verdict": "drop", "answer": "", "lines": []}
NEW = pool(("chess",)).topics[0].model_dump()


def text(**reply: object) -> str:
    return json.dumps(reply)


@pytest.mark.parametrize(
    "around",
    [
        "%s",
        "```json\n%s\n```",
        "Sure! {not json} Here you are: %s I hope {that} helps.",
        '<think>{"topics": []}</think>%s',
    ],
)
def test_one_object_is_found_whatever_stands_around_it(around):
    assert read(Topics, around % text(topics=["tea", "food"]), KEYS, 2).topics == ["tea", "food"]


def test_line_numbers_may_come_as_text_and_further_keys_do_no_harm():
    reply = read(Answers, text(answers=[{**ANSWER, "lines": ["2"], "mood": "gay"}], note="done"), ["tea"], 1)
    assert reply.answers[0].lines == [2]


@pytest.mark.parametrize(
    ("kind", "reply", "complaint"),
    [
        (Topics, '{"topics": ["tea", "fo', "no complete JSON object"),
        (Topics, "I would rather not.", "no complete JSON object"),
        (Topics, '{"a":' * 5000, "no complete JSON object"),
        (Topics, text(topic="tea"), "`topics`: Field required"),
        (Topics, text(topics=["tea", "yachts"]), "there is no topic yachts"),
        (Topics, text(topics=["tea", "tea"]), "got 1 different keys, expected exactly 2"),
        (Topics, text(topics=["tea", "tea", "food"]), "expected exactly 2"),
        (Questions, text(questions=[{"topic": "tea", "query": "What?"}]), "expected each of these once: tea, food"),
        (Questions, text(questions=[{"topic": key, "query": " "} for key in ("tea", "food")]), "are empty"),
        (Answers, text(answers=[ANSWER, ANSWER]), "got the topics tea, tea"),
        (Answers, text(answers=[{**ANSWER, "lines": ["first"]}]), "`answers.0.lines.0`"),
        (Answers, '{"answers": [{"topic": "tea", "answer": "\\ud800", "lines": [1]}]}', "hex escape"),
        (Reflection, text(reflection=[{**VERDICT, "verdict": "perhaps"}]), "'keep', 'revise' or 'drop'"),
        (Keep, text(keep=["yachts"]), "there is no topic yachts"),
        (NewTopics, text(topics=[{**NEW, "key": "tea"}]), "keys tea are in the pool already"),
        (NewTopics, text(topics=[NEW, NEW]), "keys chess are in the pool already"),
        (NewTopics, text(topics=[{**NEW, "key": "Not Snake"}]), "`topics.0.key`"),
    ],
)
def test_what_does_not_fit_is_refused(kind, reply, complaint):
    with pytest.raises(ReplyError, match=r".") as refused:
        read(kind, reply, ["tea", "food"], 2)
    assert complaint in str(refused.value)
    assert len(str(refused.value)) <= 300


def test_the_schema_that_a_server_gets_is_closed_and_complete():
    """OpenAI's strict mode: every object lists all its keys as required and allows no other."""
    for kind in (Topics, Questions, Answers, Reflection):
        schema = kind.model_json_schema()
        for part in (schema, *schema.get("$defs", {}).values()):
            assert part["additionalProperties"] is False
            assert set(part["required"]) == set(part["properties"])
