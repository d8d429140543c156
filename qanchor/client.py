"""A client of `qanchor serve`, sync and async: the same verbs, written once.

Example:
    with Client("http://127.0.0.1:8000", key="qa_...") as client:
        client.embed(["u17"], scenarios=["takeout"]).array("u17")   # [1, 128]
"""

from __future__ import annotations

import base64
import datetime as dt
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload
from urllib.parse import quote

import httpx2
import numpy as np
import numpy.typing as npt

from qanchor.errors import BusyError, ConfigError, LimitError, QAnchorError

P = ParamSpec("P")
R = TypeVar("R")
Moment = str | dt.datetime
"""`refresh`, `now`, or a moment since."""


class RefusedError(QAnchorError):
    """What the service refused, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Embeddings:
    """What `embed` returns."""

    model: str
    questions: list[str]
    """G scenarios and then queries."""
    users: list[str]
    """N who went well, in the order of the request."""
    embedding_NGO: npt.NDArray[np.float32]
    as_of: dict[str, str]
    """User -> the moment that the embeddings are of."""
    errors: dict[str, str]
    """User -> why there are none."""

    def array(self, user_id: str) -> npt.NDArray[np.float32]:
        """[G, O] of one user. Raises KeyError with the reason."""
        if user_id not in self.as_of:
            raise KeyError(self.errors.get(user_id, "not asked for"))
        found: npt.NDArray[np.float32] = self.embedding_NGO[self.users.index(user_id)]
        return found


@dataclass(frozen=True)
class Scores:
    model: str
    probability: dict[str, dict[str, float]]
    """User -> scenario -> probability."""
    errors: dict[str, str]


@dataclass(frozen=True)
class Appended:
    accepted: int
    duplicates: int
    errors: dict[str, str]
    """Event id -> why it is not there."""


@dataclass(frozen=True)
class Scenario:
    name: str
    query: str
    tuned: bool
    stored: bool
    scored: bool


@dataclass(frozen=True)
class Near:
    user_id: str
    similarity: float


@dataclass(frozen=True)
class Call(Generic[R]):
    """One request, and what to make of its reply."""

    method: str
    path: str
    json: Any
    read: Callable[[Any], R]


class _Verb(Generic[P, R]):
    """On a `Client` a function that returns R, on an `AsyncClient` one that is awaited for it."""

    def __init__(self, call: Callable[P, Call[R]]) -> None:
        self._call = call
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, client: Client, owner: Any = None) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: Any = None) -> Callable[P, Awaitable[R]]: ...
    @overload
    def __get__(self, client: None, owner: Any = None) -> _Verb[P, R]: ...
    def __get__(self, client: Any, owner: Any = None) -> Any:
        if client is None:
            return self

        def verb(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client._send(self._call(*args, **kwargs))

        verb.__doc__, verb.__name__ = self._call.__doc__, self._call.__name__
        return verb


def _embed(
    user_ids: Sequence[str], scenarios: Sequence[str] = (), queries: Sequence[str] = (), as_of: Moment = "refresh"
) -> Call[Embeddings]:
    """Embeddings of users for tuned scenarios and free queries."""
    questions = [*scenarios, *queries]

    def read(reply: Any) -> Embeddings:
        rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in reply["data"]]
        as_of = {item["user_id"]: item["as_of"] for item in reply["data"]}
        users = [item["user_id"] for item in reply["data"][:: max(1, len(questions))]]
        shape = (len(users), len(questions), reply["dimensions"])
        embedding_NGO = np.stack(rows).reshape(shape) if rows else np.zeros(shape, np.float32)
        return Embeddings(reply["model"], questions, users, embedding_NGO, as_of, _reasons(reply))

    asked = {
        "user_ids": list(user_ids),
        "scenarios": list(scenarios),
        "queries": list(queries),
        "as_of": _moment(as_of),
        "encoding_format": "base64",
    }
    return Call("POST", "/v1/embed", asked, read)


def _score(user_ids: Sequence[str], scenarios: Sequence[str], as_of: Moment = "refresh") -> Call[Scores]:
    """Probabilities that the scenarios' questions are answered by yes."""

    def read(reply: Any) -> Scores:
        found: dict[str, dict[str, float]] = {}
        for item in reply["data"]:
            found.setdefault(item["user_id"], {})[item["scenario"]] = item["probability"]
        return Scores(reply["model"], found, _reasons(reply))

    asked = {"user_ids": list(user_ids), "scenarios": list(scenarios), "as_of": _moment(as_of)}
    return Call("POST", "/v1/score", asked, read)


def _append(source: str, events: Mapping[str, Mapping[str, Any]]) -> Call[Appended]:
    """Append events, each a row of a source's logs under an id of its own; sending one again changes nothing."""

    def read(reply: Any) -> Appended:
        errors = {item["id"]: item["reason"] for item in reply["errors"]}
        return Appended(reply["accepted"], reply["duplicates"], errors)

    asked = {"source": source, "events": [{"id": id, "row": dict(row)} for id, row in events.items()]}
    return Call("POST", "/v1/events", asked, read)


def _scenarios() -> Call[list[Scenario]]:
    """All scenarios."""
    return Call("GET", "/v1/scenarios", None, lambda reply: [Scenario(**item) for item in reply["data"]])


def _register(name: str, query: str) -> Call[Scenario]:
    """Register a question under a name."""
    return Call("POST", "/v1/scenarios", {"name": name, "query": query}, lambda reply: Scenario(**reply))


def _search(scenario: str, sentence: str | None = None, user_id: str | None = None, k: int = 10) -> Call[list[Near]]:
    """The users nearest to a statement, or to a user."""
    asked = {"scenario": scenario, "sentence": sentence, "user_id": user_id, "k": k}
    return Call("POST", "/v1/search", asked, lambda reply: [Near(**item) for item in reply["data"]])


def _forget(user_id: str) -> Call[dict[str, tuple[int, int]]]:
    """Forget a user: place -> rows before and after."""

    def read(reply: Any) -> dict[str, tuple[int, int]]:
        return {item["place"]: (item["before"], item["after"]) for item in reply["data"]}

    return Call("DELETE", f"/v1/users/{quote(user_id, safe='')}", None, read)


def _status() -> Call[dict[str, Any]]:
    """What the service answers from."""
    return Call("GET", "/v1/status", None, dict)


class _Verbs:
    embed = _Verb(_embed)
    score = _Verb(_score)
    append = _Verb(_append)
    scenarios = _Verb(_scenarios)
    register = _Verb(_register)
    search = _Verb(_search)
    forget = _Verb(_forget)
    status = _Verb(_status)


class Client(_Verbs):
    """Blocks until the reply is there. Keeps connections; close it, or use it in a `with`.

    Every verb raises RefusedError for what the service refuses, LimitError and BusyError (with `retry_after`) for what
    it would do later, and httpx2's TransportError when it does not answer.
    """

    def __init__(
        self, url: str, key: str = "", timeout: float = 30.0, ca: Path | str | None = None, **options: Any
    ) -> None:
        """Of an https service the certificate is verified: against the usual authorities, or those of the file `ca`
        (PEM). `options` go to `httpx2.Client`."""
        self._http = httpx2.Client(base_url=url, headers=_headers(key), timeout=timeout, **_trust(ca), **options)

    def _send(self, call: Call[R]) -> R:
        return call.read(_checked(self._http.request(call.method, call.path, json=call.json)))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Verbs):
    """The same, awaited."""

    def __init__(
        self, url: str, key: str = "", timeout: float = 30.0, ca: Path | str | None = None, **options: Any
    ) -> None:
        """`ca` as there; `options` go to `httpx2.AsyncClient`."""
        self._http = httpx2.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout, **_trust(ca), **options)

    async def _send(self, call: Call[R]) -> R:
        return call.read(_checked(await self._http.request(call.method, call.path, json=call.json)))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _checked(reply: httpx2.Response) -> Any:
    if reply.is_success:
        return reply.json()
    try:
        reason = str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        reason = reply.text[:200] or reply.reason_phrase
    if reply.status_code in (429, 503):
        kind = LimitError if reply.status_code == 429 else BusyError
        raise kind(f"{reply.status_code}: {reason}", float(reply.headers.get("retry-after", 1)))
    raise RefusedError(reply.status_code, reason)


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _trust(ca: Path | str | None) -> dict[str, Any]:
    """Raises ConfigError when the file holds no certificates."""
    if ca is None:
        return {}
    try:
        return {"verify": ssl.create_default_context(cafile=ca)}
    except OSError as error:
        raise ConfigError(f"{ca} cannot be read ({error}): expected certificates in PEM") from None


def _moment(as_of: Moment) -> str:
    return as_of.isoformat() if isinstance(as_of, dt.datetime) else as_of


def _reasons(reply: Any) -> dict[str, str]:
    return {item["user_id"]: item["reason"] for item in reply["errors"]}
