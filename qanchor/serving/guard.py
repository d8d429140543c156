"""Around every route: errors as one sentence and a status, bodies that are too large, how long it took."""

from __future__ import annotations

import logging
import math
import time
import traceback
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qanchor.errors import (
    AuditError,
    BusyError,
    ConfigError,
    CredentialError,
    DataError,
    LimitError,
    ModelError,
    QAnchorError,
    ScopeError,
)
from qanchor.serving import messages as m
from qanchor.serving.metrics import Metrics
from qanchor.serving.replies import Json

log = logging.getLogger("qanchor.serving")
LARGEST_BODY = 8 << 20
STATUS: tuple[tuple[type[QAnchorError], int], ...] = (
    (CredentialError, 401),
    (ScopeError, 403),
    (LimitError, 429),
    (BusyError, 503),
    (AuditError, 503),
    (ConfigError, 409),
    (DataError, 409),
    (ModelError, 409),
    (QAnchorError, 500),
)
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": m.Problem, "description": words}
    for status, words in {
        401: "no key or token, or not a good one",
        403: "it does not reach so far",
        404: "no such thing",
        409: "not as this project is set up: the reason says how to mend it",
        413: f"more than {LARGEST_BODY >> 20} MiB",
        422: "the request cannot be read",
        429: "too much from this key; see Retry-After",
        503: "too busy; see Retry-After",
    }.items()
}


def explain_errors(app: FastAPI) -> None:
    """What was wrong, in the words of the error; never a trace."""

    @app.exception_handler(QAnchorError)
    async def refused(request: Request, error: QAnchorError) -> Response:
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if isinstance(error, BusyError):
            headers["Retry-After"] = str(math.ceil(error.retry_after))
        return Json({"error": str(error), "where": []}, status, headers)

    @app.exception_handler(RequestValidationError)
    async def unread(request: Request, error: RequestValidationError) -> Response:
        items = error.errors()
        where = [".".join(str(part) for part in item["loc"] if part != "body") for item in items]
        said = [
            f"{key}: {item['msg'].removeprefix('Value error, ')}" if key else item["msg"].removeprefix("Value error, ")
            for key, item in zip(where, items, strict=True)
        ]
        # of a thousand bad users the first few say it
        text = "; ".join(said[:5]).encode("utf-8", "replace").decode()
        return Json({"error": text, "where": [key.encode("utf-8", "replace").decode() for key in where[:20]]}, 422)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        return Json({"error": error.detail, "where": []}, error.status_code, error.headers)


class Guard:
    """Around everything: bodies that are too large, errors that nobody expected, and how long it took."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, size = time.perf_counter(), 0, 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def receiving() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > LARGEST_BODY:
                raise _TooLarge
            return message

        try:
            declared = dict(scope["headers"]).get(b"content-length", b"0")
            if declared.isdigit() and int(declared) > LARGEST_BODY:
                raise _TooLarge
            await self.app(scope, receiving, sending)
        except _TooLarge as error:
            await _finish(Json({"error": error.detail, "where": []}, 413), status, scope, receive, sending)
        except Exception as error:
            # where, but no message: it may quote the request
            trace = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s %s: %s\n%s", scope["method"], _route(scope), type(error).__name__, trace)
            await _finish(Json({"error": "internal error", "where": []}, 500), status, scope, receive, sending)
        route = _route(scope)
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(time.perf_counter() - start)


class _TooLarge(HTTPException):
    def __init__(self) -> None:
        super().__init__(413, f"more than {LARGEST_BODY} bytes: send fewer at a time")


def _route(scope: Scope) -> str:
    """The route's pattern, never the path: that may hold a user's id."""
    return getattr(scope.get("route"), "path", "other")


async def _finish(reply: Response, status: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Unless a reply has begun already."""
    if not status:
        await reply(scope, receive, send)
