"""An LLM behind an OpenAI-compatible address, asked until it gives a usable reply, but not for ever."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import json
import os
import random
from collections.abc import Sequence
from typing import Any, TypeVar

from qanchor.config import LLM
from qanchor.errors import ConfigError, DataError, QAnchorError
from qanchor.useru.synthesis.dialect import Dialect
from qanchor.useru.synthesis.ledger import Tally, roughly
from qanchor.useru.synthesis.replies import Reply, ReplyError, read, schema

LONGEST_WAIT = 120.0
"""Seconds; a server that asks for more is asked again sooner, and counted."""
LONGEST_SAYING = 300
"""Characters of a server's message that are passed on."""
CHAT = 200
"""Tokens that a chat template puts around a system and a user message, at the most."""
COMPLAINT = "\n\nYour last reply was refused: {reason}. Reply again, in the shape that is shown."
SERVERS_FAULT = ("rate limit", "server error", "timeout", "connection")
"""Reasons that a later run may not meet again."""
CENSORED = ("content_filter", "content_policy_violation", "data_inspection_failed")
"""Codes of vendors who will not have a profile read: the user's misfortune, not the run's."""
UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""The HTTP library's errors of a request that no server has seen: they cost nothing."""

R = TypeVar("R", bound=Reply)


class UnansweredError(DataError):
    """A request without a usable reply: a `reason` to count by ("timeout", "answer: timeout"), and what happened."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    @property
    def again(self) -> bool:
        """Whether it is worth asking in a later run."""
        return self.reason.endswith(SERVERS_FAULT)


def ceiling(kind: type[Reply], prompts: int, limit: int) -> Tally:
    """The most that a request can cost: a token is at least one byte. `prompts` are the bytes of the messages."""
    complaint = len(COMPLAINT) + 4 * LONGEST_SAYING
    return Tally(1, prompts + len(json.dumps(schema(kind))) + complaint + CHAT, limit)


class Client:
    """Use as an async context. `backoff_s` is the first wait after a failure; it doubles with every further one.

    Raises:
        ConfigError: the `openai` package is missing.
    """

    def __init__(self, settings: LLM, backoff_s: float = 1.0) -> None:
        try:
            import openai
        except ImportError:
            raise ConfigError("`useru.llm` needs the openai package: pip install 'qanchor[llm]'") from None
        self.settings, self.backoff_s = settings, backoff_s
        self._openai: Any = openai
        self._key = os.environ.get(settings.key_env, "")
        self._sdk: Any = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=self._key or "none",  # some word must stand there
            max_retries=0,  # retries and deadlines are ours, to be counted
            timeout=None,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),  # profiles go where the config says
        )
        self._dialect = Dialect()
        self._not_before = 0.0

    def __repr__(self) -> str:
        return f"Client({self.settings.model!r} at {self.settings.base_url!r}, key {'***' if self._key else 'unset'})"

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sdk.close()

    async def ask(
        self, kind: type[R], system: str, user: str, topics: Sequence[str], count: int, limit: int, tally: Tally
    ) -> R:
        """One question, `limit` tokens for the reply; all attempts are entered into `tally`.

        Raises:
            UnansweredError: no attempt gave a reply that `kind.check` accepts.
            ConfigError: the server will never take such a request: no key, no such model, no such option.
        """
        complaint, attempts = "", self.settings.max_retries + 1
        for attempt in range(1, attempts + 1):
            try:
                return read(kind, await self._send(kind, system, user + complaint, limit, tally), topics, count)
            except ReplyError as error:
                failure, complaint = UnansweredError("malformed", str(error)), COMPLAINT.format(reason=error)
            except UnansweredError as error:
                failure = error
            if attempt < attempts:
                tally.retries[failure.reason] += 1
                await asyncio.sleep(self._backoff(attempt) if failure.again else 0)
        raise failure

    def _backoff(self, attempt: int) -> float:
        """Seconds; jittered, so that users who failed together do not come back together."""
        longest: float = min(LONGEST_WAIT, self.backoff_s * 2 ** (attempt - 1))
        return longest * random.uniform(0.5, 1)

    async def _send(self, kind: type[Reply], system: str, user: str, limit: int, tally: Tally) -> str:
        """The text of one reply. Raises UnansweredError or ConfigError."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user})
        most = ceiling(kind, len((system + user).encode()), limit)
        while True:
            dialect = self._dialect
            await self._pause()
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    options = dialect.options(kind, limit, self.settings.temperature)
                    reply = await self._sdk.chat.completions.create(
                        model=self.settings.model, messages=messages, **options
                    )
            except self._openai.APIStatusError as error:
                tally.requests += 1
                poorer = dialect.without(str(error)) if error.status_code in (400, 422) else None
                if poorer is None:
                    raise self._failure(error) from None
                if self._dialect == dialect:  # else another request has found out already
                    self._dialect = poorer
            except (TimeoutError, self._openai.APIError, ValueError, asyncio.CancelledError) as error:
                # the server may have replied, and will have it paid for
                unsent = type(error.__cause__).__name__ in UNSENT
                tally.add(Tally(1) if unsent else most)
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise self._silence(error) from None
            else:
                return self._text(reply, system + user, tally)

    async def _pause(self) -> None:
        """Wait for as long as the server has asked everyone to."""
        loop = asyncio.get_running_loop()
        while (left := self._not_before - loop.time()) > 0:
            await asyncio.sleep(left + self.backoff_s * random.random())

    def _text(self, reply: Any, prompt: str, tally: Tally) -> str:
        """What stands in a reply, whose tokens are entered into `tally`. Raises UnansweredError."""
        try:
            choice = reply.choices[0]
            text = str(choice.message.content or "")
        except (AttributeError, IndexError, TypeError):
            choice, text = None, ""
        usage = getattr(reply, "usage", None)
        spent: list[Any] = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        guess = [roughly(prompt), roughly(text)]
        told, written = spent if all(isinstance(tokens, int) for tokens in spent) else guess
        tally.add(Tally(1, told, written))
        if choice is None:
            raise UnansweredError("malformed", "the server's answer is no chat completion")
        if choice.finish_reason == "length":
            raise UnansweredError("truncated", "the reply was cut off at its limit of tokens")
        return text

    def _failure(self, error: Any) -> QAnchorError:
        """What an HTTP status means: a failure to come back from, or the end."""
        status, said = error.status_code, self._said(error)
        if status == 429 and error.code != "insufficient_quota":
            wait = retry_after(error.response.headers.get("retry-after"), dt.datetime.now(dt.UTC))
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + wait)
            return UnansweredError("rate limit", said)
        if error.code in CENSORED:
            return UnansweredError("content filter", said)
        if status >= 500 or status in (408, 409):
            return UnansweredError("server error", said)
        where = f"{self.settings.base_url} answered {said}"
        if status in (401, 403, 429):
            return ConfigError(f"{where}: look at the key in ${self.settings.key_env}, its rights and its credit")
        if status == 404:
            model = self.settings.model
            return ConfigError(
                f"{where}: `base_url` ends in /v1 as a rule, `model` ({model}) is named as in its /models"
            )
        return ConfigError(f"{where}: the server takes no such request; if it is too long, lower `max_lines`")

    def _silence(self, error: Exception) -> UnansweredError:
        if isinstance(error, (TimeoutError, self._openai.APITimeoutError)):
            return UnansweredError("timeout", f"no reply within {self.settings.timeout_s:g} s")
        if isinstance(error, self._openai.APIConnectionError):
            return UnansweredError("connection", f"{error} {error.__cause__ or ''}".strip())
        return UnansweredError("malformed", "the server's answer is not JSON")

    def _said(self, error: Any) -> str:
        """Status and message, without the key, which some servers repeat."""
        message = error.body.get("message") if isinstance(error.body, dict) else error.body
        said = f"{error.status_code} {message or error.message}"
        return (said.replace(self._key, "***") if self._key else said)[:LONGEST_SAYING]


def retry_after(header: str | None, now: dt.datetime) -> float:
    """Seconds that a server asks to wait, given as seconds or as an HTTP date; 0 if it says nothing readable."""
    try:
        seconds = float(header or 0)
    except ValueError:
        try:
            until = email.utils.parsedate_to_datetime(header or "")
        except ValueError:
            return 0.0
        # a date in "-0000" comes without a zone
        seconds = (until.replace(tzinfo=until.tzinfo or dt.UTC) - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT) if seconds == seconds else 0.0
