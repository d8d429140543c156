"""The HTTP API: who may ask, what is read from the request, how the reply is written. What is done is service.py's."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Path, Query, Response
from starlette.exceptions import HTTPException

from qanchor import __version__
from qanchor.errors import BusyError, DataError
from qanchor.serving import messages as m
from qanchor.serving.delivery import Sent
from qanchor.serving.door import Door, Who
from qanchor.serving.guard import PROBLEMS, Guard, explain_errors
from qanchor.serving.questions import add_questions
from qanchor.serving.replies import Json
from qanchor.serving.service import Service, iso, moment_of
from qanchor.serving.world import refreshed

log = logging.getLogger("qanchor.serving")


def create(service: Service, door: Door) -> FastAPI:
    """The application; the service starts and ends with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()
        await asyncio.to_thread(door.audit.close)

    app = FastAPI(
        title="qanchor",
        version=__version__,
        summary="Query-anchored user embeddings.",
        lifespan=lifespan,
        responses=PROBLEMS,
        default_response_class=Json,
        redoc_url=None,
        swagger_ui_parameters={"persistAuthorization": False},
    )
    app.state.service, app.state.door = service, door
    explain_errors(app)
    _open(app, service)
    add_questions(app, service, door)
    _state(app, service, door)
    _changes(app, service, door)
    app.add_middleware(Guard, metrics=service.metrics)
    return app


def _open(app: FastAPI, service: Service) -> None:
    """What needs no key: nothing of a user."""
    page = resources.files("qanchor.serving").joinpath("page.html").read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": policy_of(page),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }

    @app.get("/", include_in_schema=False)
    async def look() -> Response:
        return Response(page, media_type="text/html", headers=headers)

    @app.get("/healthz", tags=["health"])
    async def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    async def ready(response: Response) -> dict[str, str]:
        """There is a model and a refresh to answer from; 503 otherwise."""
        if service.world.shelf.as_of is None:
            response.status_code = 503
            return {"status": "no refresh by this model yet: run `qanchor refresh`"}
        return {"status": "ok"}


def policy_of(page: str) -> str:
    """The page's Content-Security-Policy: its own script and style, by their hashes, its own service, nothing else."""

    def own(tag: str) -> str:
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {own('script')}; style-src {own('style')}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _state(app: FastAPI, service: Service, door: Door) -> None:
    verifying = asyncio.Lock()

    def audited() -> dict[str, Any]:
        checked = door.audit.checked
        return {
            "lines": door.audit.lines,
            "first": checked.first,
            "verified": checked.last,
            "at": f"{checked.at:%Y-%m-%dT%H:%M:%SZ}",
            "signed": door.audit.signed,
            "problems": checked.problems[:20],
        }

    @app.get("/v1/scenarios", tags=["scenarios"], response_model=m.ScenariosReply, name="scenarios")
    async def scenarios(who: Who) -> Response:
        """All scenarios, whether or not this key may ask for them."""
        world = service.world
        data = [
            {
                "name": name,
                "query": query,
                "tuned": service.suffix(world, name).tuned is not None,
                "stored": name in world.shelf.matrices,
                "scored": name in world.probes,
            }
            for name, query in service.scenarios.queries().items()
        ]
        return Json({"data": data})

    @app.get("/v1/users/{user_id:path}/events", tags=["users"], response_model=m.TimelineReply, name="timeline")
    async def timeline(
        user_id: Annotated[m.UserId, Path()],
        who: Who,
        as_of: m.Moment = "refresh",
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> Response:
        """A user's events in the window, newest first; `as_of` is `refresh`, `now` or a moment. Needs `admin`."""
        door.allow(who, "admin", (), 1, 1)
        try:
            at, events = await service.timeline(user_id, moment_of(as_of), limit)
        except DataError as error:
            raise HTTPException(404, str(error)) from None
        await door.wrote(who, "timeline", (), 1, "ok")
        data = [
            {"time": iso(time), "modality": modality, "text": text, "value": None if np.isnan(value) else value}
            for time, modality, text, value in events
        ]
        return Json({"user_id": user_id, "as_of": iso(at), "data": data})

    @app.get("/v1/status", tags=["health"], response_model=m.StatusReply, name="status")
    async def status(who: Who) -> Response:
        """What is answered from."""
        world, as_of = service.world, service.world.shelf.as_of
        shards = await asyncio.to_thread(refreshed, service.daily)
        return Json(
            {
                "model": world.fingerprint,
                "as_of": as_of and str(as_of),
                "users": max((len(matrix.rows) for matrix in world.shelf.matrices.values()), default=0),
                "loaded": world.loaded.isoformat(timespec="seconds"),
                "stale": service.stale,
                "appended": await service.appended(),
                "shards": {str(shard): str(state.as_of) for shard, state in shards.items()},
                "audit": audited(),
            }
        )

    @app.post("/v1/audit/verify", tags=["health"], response_model=m.AuditState, name="verify")
    async def verify(who: Who) -> Response:
        """Read the audit log through and find any edited, dropped or reordered line, as `qanchor audit verify` does.
        It takes seconds for millions of lines. Needs `admin`."""
        door.allow(who, "admin", (), 0, 100)
        if verifying.locked():
            raise BusyError("the audit log is being verified already: ask again", 5)
        async with verifying:
            await asyncio.to_thread(door.audit.verify)
        await door.wrote(who, "verify", (), 0, "problems" if door.audit.checked.problems else "ok")
        return Json(audited())

    @app.get("/metrics", tags=["health"], name="metrics")
    async def metrics(who: Who) -> Response:
        """For Prometheus, with a key that has the scope `admin`."""
        door.allow(who, "admin", (), 0, 1)
        service.metrics.waiting.set(len(service.batcher))
        if service.world.shelf.as_of:
            service.metrics.refreshed.set(time.mktime(service.world.shelf.as_of.timetuple()))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _changes(app: FastAPI, service: Service, door: Door) -> None:
    @app.post("/v1/events", tags=["events"], response_model=m.AppendReply, name="append")
    async def append(asked: m.AppendRequest, who: Who) -> Response:
        """Append events. They are on disk before the reply, count once however often they are sent, and are visible to
        `as_of: now` at once; the next refresh reads them from the source's log files."""
        door.allow(who, "append", (), len(asked.events), len(asked.events))
        done = await service.append(asked.source, [Sent(event.id, dict(event.row)) for event in asked.events])
        accepted = sum(each is True for each in done)
        service.metrics.events.inc(accepted)
        await door.wrote(who, "append", (), accepted, "ok")
        errors = [
            {"id": event.id, "reason": each}
            for event, each in zip(asked.events, done, strict=True)
            if isinstance(each, str)
        ]
        return Json({"accepted": accepted, "duplicates": sum(each is False for each in done), "errors": errors})

    @app.post("/v1/scenarios", tags=["scenarios"], response_model=m.Scenario, name="register")
    async def register(asked: m.RegisterRequest, who: Who) -> Response:
        """Register a question under a name. It is asked by its words alone, and computed when asked: to tune it, and
        to have it in every refresh, name it in the config."""
        door.allow(who, "admin", (), 0, 1)
        new = service.scenarios.register(asked.name, asked.query)
        await door.wrote(who, "register", [asked.name], 0, "ok")
        return Json(
            {"name": asked.name, "query": asked.query, "tuned": False, "stored": False, "scored": False},
            201 if new else 200,
        )

    @app.delete("/v1/users/{user_id:path}", tags=["users"], response_model=m.ForgetReply, name="forget")
    async def forget(user_id: Annotated[m.UserId, Path()], who: Who) -> Response:
        """Forget a user: events, profile, embeddings, pairs, and what was appended; and keep it out from now on."""
        door.allow(who, "forget", (), 1, 1)
        await door.wrote(who, "forget", (), 1, "begun")
        traces = await service.forget(user_id)
        await door.wrote(who, "forget", (), 1, "ok")
        data = [{"place": trace.place, "before": trace.before, "after": trace.after} for trace in traces]
        return Json({"data": data})
