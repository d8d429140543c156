"""One user's interview by an LLM: topics, questions, answers, and a reflection on the answers (section 3.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from qanchor.config import Config
from qanchor.useru.synthesis.client import Client, UnansweredError, ceiling
from qanchor.useru.synthesis.ledger import Tally, roughly
from qanchor.useru.synthesis.profile_text import ProfileText
from qanchor.useru.synthesis.prompts import prompt, source
from qanchor.useru.synthesis.replies import Answer, Answers, Question, Questions, Reflection, Reply, Topics, schema
from qanchor.useru.topics import Pool

STEPS: dict[str, type[Reply]] = {
    "topics": Topics,
    "question": Questions,
    "answer": Answers,
    "reflection": Reflection,
}
"""By the name of the prompt, in order; each is one request for all of a user's topics."""
USUAL = {"topics": 8, "question": 40, "answer": 110, "reflection": 60}
"""Tokens of a reply per topic, about: what the prompts ask for, with the JSON around it."""
LIMIT, LIMIT_PER_TOPIC = 1000, 300
"""Tokens that a reply may have at the most."""

R = TypeVar("R", bound=Reply)


@dataclass(frozen=True)
class Pair:
    topic: str
    query: str
    answer: str
    support: tuple[str, ...]
    """The lines of the profile that the answer cites."""


@dataclass
class Findings:
    """What an interview comes to."""

    pairs: list[Pair] = field(default_factory=list)
    kept: int = 0
    revised: int = 0
    dropped: int = 0
    """Answers by the reflection's verdict."""
    unsupported: int = 0
    """Answers, drafted or revised, that cite no line or one that is not there."""


class Interview:
    """The same four requests for every user; one object serves all of them at once."""

    def __init__(self, config: Config, pool: Pool) -> None:
        self.language = config.useru.language
        self.names = {topic.key: getattr(topic, self.language).name for topic in pool.topics}
        self.count = min(config.useru.uqa, len(self.names))
        self.limit = LIMIT + LIMIT_PER_TOPIC * self.count
        self.system = prompt(f"{self.language}/system", days=str(config.windows.lookback_days))

    @property
    def digest(self) -> str:
        """Changes when the prompts, the topics or the shape of the replies do."""
        steps = [(source(f"{self.language}/{step}"), schema(kind)) for step, kind in STEPS.items()]
        told = json.dumps([self.system, self.names, self.count, steps], ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()

    async def run(self, client: Client, profile: ProfileText, tally: Tally) -> Findings:
        """Four requests, three where no answer has support. Raises like `Client.ask`; what was spent is in `tally`."""

        async def ask(step: str, kind: type[R], about: Sequence[str], **parts: str) -> R:
            user = prompt(f"{self.language}/{step}", profile=profile.text, **parts)
            try:
                return await client.ask(kind, self.system, user, about, self.count, self.limit, tally)
            except UnansweredError as error:
                raise UnansweredError(f"{step}: {error.reason}", error.detail) from None

        offered = self._list(list(self.names))
        topics = (await ask("topics", Topics, list(self.names), topics=offered, count=str(self.count))).topics
        questions = (await ask("question", Questions, topics, topics=self._list(topics))).questions
        asked = "\n".join(f"{question.topic}: {_line(question.query)}" for question in questions)
        answers = (await ask("answer", Answers, topics, questions=asked)).answers

        drafts = {answer.topic: answer for answer in answers if _supported(answer, profile)}
        findings = Findings(unsupported=len(answers) - len(drafts))
        if drafts:
            told = "\n".join(
                _draft(question, drafts[question.topic]) for question in questions if question.topic in drafts
            )
            reflection = await ask("reflection", Reflection, list(drafts), drafts=told)
            self._judge(questions, drafts, reflection, profile, findings)
        return findings

    def worst(self, profile: ProfileText, retries: int) -> Tally:
        """The most that a user can cost: every request is asked again as often as allowed, and all are paid for."""
        prompts = [source(f"{self.language}/{step}") for step in STEPS]
        own = len((self.system + profile.text + self._list(list(self.names))).encode())
        earlier = 3 * self.limit  # the questions are read twice more, the drafts once more
        total = Tally()
        for text, kind in zip(prompts, STEPS.values(), strict=True):
            total.add(ceiling(kind, own + len(text.encode()) + 32 * self.count, self.limit))
        tries = retries + 1
        return Tally(total.requests * tries, (total.prompt_tokens + earlier) * tries, total.completion_tokens * tries)

    def usual(self, profile: ProfileText) -> Tally:
        """What a user costs when all goes well, about."""
        told = self._list(list(self.names)[: self.count])
        questions, answers = (USUAL[step] * self.count for step in ("question", "answer"))
        earlier = [0, 0, questions, questions + answers]
        lists = [self._list(list(self.names)), told, "", ""]
        total = Tally()
        for step, listed, before in zip(STEPS, lists, earlier, strict=True):
            text = self.system + source(f"{self.language}/{step}") + profile.text + listed
            total.add(Tally(1, roughly(text) + before, USUAL[step] * self.count))
        return total

    def _list(self, keys: Sequence[str]) -> str:
        return "\n".join(f"{key}: {self.names[key]}" for key in keys)

    def _judge(
        self,
        questions: list[Question],
        drafts: dict[str, Answer],
        reflection: Reflection,
        profile: ProfileText,
        findings: Findings,
    ) -> None:
        """Enter what the reflection leaves of the drafts."""
        verdicts = {verdict.topic: verdict for verdict in reflection.reflection}
        for question in questions:
            if question.topic not in drafts:
                continue
            verdict, answer = verdicts[question.topic], drafts[question.topic]
            if verdict.verdict == "drop":
                findings.dropped += 1
                continue
            if verdict.verdict == "revise":
                answer = Answer(topic=answer.topic, answer=verdict.answer, lines=verdict.lines)
                if not _supported(answer, profile):
                    findings.unsupported += 1
                    continue
            findings.revised += verdict.verdict == "revise"
            findings.kept += verdict.verdict == "keep"
            support = tuple(profile.lines[number - 1] for number in sorted(set(answer.lines)))
            findings.pairs.append(Pair(question.topic, _line(question.query), _line(answer.answer), support))


def _supported(answer: Answer, profile: ProfileText) -> bool:
    """Whether there is an answer, and it cites lines, all of which exist."""
    exist = all(1 <= number <= len(profile.lines) for number in answer.lines)
    return bool(answer.answer.strip() and answer.lines and exist)


def _draft(question: Question, answer: Answer) -> str:
    lines = ", ".join(map(str, answer.lines))
    return f"{question.topic}: {_line(question.query)}\n  {_line(answer.answer)}\n  lines: {lines}"


def _line(text: str) -> str:
    return " ".join(text.split())
