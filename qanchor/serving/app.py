"""The HTTP API: who may ask, what is read from the request, how the reply is written. What is done is service.py's."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from qanchor import __version__
from qanchor.errors import BusyError, ConfigError, CredentialError, DataError, QAnchorError, ScopeError
from qanchor.serving import messages as m
from qanchor.serving import replies
from qanchor.serving.delivery import Sent
from qanchor.serving.door import Door
from qanchor.serving.guard import PROBLEMS, Guard, explain_errors
from qanchor.serving.principal import ANY, Principal
from qanchor.serving.reader import Suffix
from qanchor.serving.replies import Json
from qanchor.serving.service import Found, Service, iso, moment_of
from qanchor.serving.world import World, refreshed

log = logging.getLogger("qanchor.serving")
GONE = 499
"""For the metrics only: nobody is there to read the reply."""
T = TypeVar("T")


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
    _reads(app, service, door)
    _writes(app, service, door)
    app.add_middleware(Guard, metrics=service.metrics)
    return app


async def principal(request: Request) -> Principal:
    """Who asks. A refusal is written down."""
    door: Door = request.app.state.door
    try:
        return await door.principal(request.headers.get("authorization"))
    except ConfigError as error:
        log.error("nobody gets in: %s", error)
        raise BusyError("keys cannot be checked just now: ask again in a while", 10) from None
    except CredentialError:
        door.writes(Principal("unknown", frozenset()), request.scope["route"].name, (), 0, "no credential")
        raise


Who = Annotated[Principal, Depends(principal)]


def _open(app: FastAPI, service: Service) -> None:
    """What needs no key: nothing of a user."""
    page = resources.files("qanchor.serving").joinpath("page.html").read_bytes()

    @app.get("/", include_in_schema=False)
    async def look() -> Response:
        policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
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


def _reads(app: FastAPI, service: Service, door: Door) -> None:
    async def allowed(who: Principal, verb: str, scenarios: Sequence[str], users: int, cost: float) -> None:
        try:
            who.require(verb, *scenarios)
            door.admit(who, cost)
        except QAnchorError as error:
            door.writes(who, verb, scenarios, users, "refused" if isinstance(error, ScopeError) else "limited")
            raise

    async def found(
        request: Request,
        world: World,
        user_ids: Sequence[str],
        names: Sequence[str],
        queries: Sequence[str],
        moment: int | None,
    ) -> tuple[list[Found | str], bool]:
        """Each user's embeddings or why there are none, in order; and whether all came from the store."""
        suffixes = [service.suffix(world, name) for name in names] + [Suffix(query) for query in queries]
        results: list[Found | str | None] = [None] * len(user_ids)
        if moment is None and not queries:
            results = [service.stored(world, user_id, names) for user_id in user_ids]
        missing = [n for n, result in enumerate(results) if result is None]
        service.metrics.users.labels("stored").inc(len(user_ids) - len(missing))
        if missing:
            service.metrics.users.labels("computed").inc(len(missing))
            futures = service.submit(world, [user_ids[n] for n in missing], suffixes, moment)
            for n, result in zip(missing, await _unless_gone(request, futures), strict=True):
                results[n] = result
        return [result if result is not None else "" for result in results], not missing

    @app.post("/v1/embed", tags=["embeddings"], response_model=m.EmbedReply, name="embed")
    async def embed(asked: m.EmbedRequest, request: Request, who: Who) -> Response:
        """Embed users for scenarios or free queries, as of the last refresh, now, or a moment since.

        With `Accept: application/vnd.apache.arrow.stream` the reply is an Arrow table of `user_id, question, as_of,
        embedding, error`.
        """
        names = [*asked.scenarios, *([ANY] if asked.queries else [])]
        questions = len(asked.scenarios) + len(asked.queries)
        await allowed(who, "embed", names, len(asked.user_ids), len(asked.user_ids) * questions)
        world = service.world
        results, stored = await found(
            request, world, asked.user_ids, asked.scenarios, asked.queries, moment_of(asked.as_of)
        )
        good = sum(isinstance(result, Found) for result in results)
        if stored:
            door.writes(who, "embed", names, good, "ok")
        else:
            await door.wrote(who, "embed", names, good, "ok")
        labels = [{"scenario": name} for name in asked.scenarios] + [{"query": query} for query in asked.queries]
        if replies.ARROW in request.headers.get("accept", ""):
            return Response(replies.arrow(asked.user_ids, labels, results, world), media_type=replies.ARROW)
        data = [
            {
                "user_id": user_id,
                **label,
                "as_of": iso(result.as_of),
                "embedding": replies.floats(embedding_O, asked.encoding_format),
            }
            for user_id, result in zip(asked.user_ids, results, strict=True)
            if isinstance(result, Found)
            for label, embedding_O in zip(labels, result.embedding_GO, strict=True)
        ]
        dimensions = world.reader.model.towers.dim
        return Json(
            {
                "model": world.fingerprint,
                "dimensions": dimensions,
                "data": data,
                "errors": replies.failed(asked.user_ids, results),
            }
        )

    @app.post("/v1/score", tags=["embeddings"], response_model=m.ScoreReply, name="score")
    async def score(asked: m.ScoreRequest, request: Request, who: Who) -> Response:
        """The probability that a scenario's question is answered by yes, by the probe on its embedding."""
        names, users = asked.scenarios, asked.user_ids
        await allowed(who, "score", names, len(users), len(users) * len(names))
        world = service.world
        for name in names:
            service.suffix(world, name)
            if name not in world.probes:
                raise DataError(f"no probe for {name!r} by this model: fit them with `qanchor probes`")
        results, _ = await found(request, world, users, names, (), moment_of(asked.as_of))
        await door.wrote(who, "score", names, sum(isinstance(result, Found) for result in results), "ok")
        data = [
            {
                "user_id": user_id,
                "scenario": name,
                "as_of": iso(result.as_of),
                "probability": float(world.probes[name](embedding_O[None])[0]),
            }
            for user_id, result in zip(users, results, strict=True)
            if isinstance(result, Found)
            for name, embedding_O in zip(names, result.embedding_GO, strict=True)
        ]
        return Json({"model": world.fingerprint, "data": data, "errors": replies.failed(users, results)})

    @app.post("/v1/search", tags=["embeddings"], response_model=m.SearchReply, name="search")
    async def search(asked: m.SearchRequest, who: Who) -> Response:
        """The users whose embeddings of the last refresh for a scenario lie nearest to a statement, or to a user."""
        await allowed(who, "search", [asked.scenario], asked.k, 10)
        world = service.world
        service.suffix(world, asked.scenario)
        matrix = world.shelf.matrices.get(asked.scenario)
        if matrix is None or world.shelf.as_of is None:
            raise DataError(f"{asked.scenario!r} is not in the last refresh: name it in the config and refresh")
        if asked.user_id is not None:
            vector_O = matrix.get(asked.user_id)
            if vector_O is None or asked.user_id in world.forgotten:
                raise HTTPException(404, "this user is not in the last refresh")
        else:
            vector_O = await service.answer(world, str(asked.sentence))
        near = await asyncio.to_thread(matrix.nearest, vector_O, asked.k)
        near = [one for one in near if one.user_id not in world.forgotten]
        await door.wrote(who, "search", [asked.scenario], len(near), "ok")
        data = [{"user_id": user_id, "similarity": score} for user_id, score in near]
        return Json({"model": world.fingerprint, "as_of": str(world.shelf.as_of), "data": data})

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
        await allowed(who, "admin", (), 1, 1)
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
            }
        )

    @app.get("/metrics", tags=["health"], name="metrics")
    async def metrics(who: Who) -> Response:
        """For Prometheus, with a key that has the scope `admin`."""
        await allowed(who, "admin", (), 0, 1)
        service.metrics.waiting.set(len(service.batcher))
        if service.world.shelf.as_of:
            service.metrics.refreshed.set(time.mktime(service.world.shelf.as_of.timetuple()))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _writes(app: FastAPI, service: Service, door: Door) -> None:
    async def allowed(who: Principal, verb: str, users: int) -> None:
        try:
            who.require(verb)
            door.admit(who, max(users, 1))
        except QAnchorError as error:
            door.writes(who, verb, (), users, "refused" if isinstance(error, ScopeError) else "limited")
            raise

    @app.post("/v1/events", tags=["events"], response_model=m.AppendReply, name="append")
    async def append(asked: m.AppendRequest, who: Who) -> Response:
        """Append events. They are on disk before the reply, count once however often they are sent, and are visible to
        `as_of: now` at once; the next refresh reads them from the source's log files."""
        await allowed(who, "append", len(asked.events))
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
        await allowed(who, "admin", 0)
        new = service.scenarios.register(asked.name, asked.query)
        await door.wrote(who, "register", [asked.name], 0, "ok")
        return Json(
            {"name": asked.name, "query": asked.query, "tuned": False, "stored": False, "scored": False},
            201 if new else 200,
        )

    @app.delete("/v1/users/{user_id:path}", tags=["users"], response_model=m.ForgetReply, name="forget")
    async def forget(user_id: Annotated[m.UserId, Path()], who: Who) -> Response:
        """Forget a user: events, profile, embeddings, pairs, and what was appended; and keep it out from now on."""
        await allowed(who, "forget", 1)
        await door.wrote(who, "forget", (), 1, "begun")
        traces = await service.forget(user_id)
        await door.wrote(who, "forget", (), 1, "ok")
        data = [{"place": trace.place, "before": trace.before, "after": trace.after} for trace in traces]
        return Json({"data": data})


async def _unless_gone(request: Request, futures: Sequence[asyncio.Future[T]]) -> list[T]:
    """The futures' results; when the client hangs up, they are cancelled, so that nothing is computed for nobody."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    results = asyncio.ensure_future(asyncio.gather(*futures))
    leaving: asyncio.Future[Any] = asyncio.ensure_future(gone())
    either: list[asyncio.Future[Any]] = [results, leaving]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not results.done():
            results.cancel()
            raise HTTPException(GONE, "the client is gone")
        return list(results.result())
    finally:
        leaving.cancel()
