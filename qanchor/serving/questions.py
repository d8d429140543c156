"""The routes that ask about users: embeddings, scores, attention, statements, search."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from qanchor.errors import DataError
from qanchor.inference.search import Floats, without
from qanchor.serving import messages as m
from qanchor.serving import replies
from qanchor.serving.door import Door, Who
from qanchor.serving.explanations import AttentionReply, AttentionRequest, StatementsReply, StatementsRequest
from qanchor.serving.principal import ANY
from qanchor.serving.reader import Suffix
from qanchor.serving.replies import Json
from qanchor.serving.service import Found, Service, iso, moment_of
from qanchor.serving.world import World

GONE = 499
"""For the metrics only: nobody is there to read the reply."""
T = TypeVar("T")


def add_questions(app: FastAPI, service: Service, door: Door) -> None:
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
        door.allow(who, "embed", names, len(asked.user_ids), len(asked.user_ids) * questions)
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
            for label, embedding_O in zip(labels, result.told_GX, strict=True)
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
        door.allow(who, "score", names, len(users), len(users) * len(names))
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
            for name, embedding_O in zip(names, result.told_GX, strict=True)
        ]
        return Json({"model": world.fingerprint, "data": data, "errors": replies.failed(users, results)})

    @app.post("/v1/attention", tags=["explanations"], response_model=AttentionReply, name="attention")
    async def attention(asked: AttentionRequest, request: Request, who: Who) -> Response:
        """Where the model looks in a user's logs when it is asked a question: shares by modality, by the question
        alone (`base`) and with the scenario's soft prompt (`tuned`). Needs the scopes of `/v1/embed`."""
        names, users = [*asked.scenarios, *([ANY] if asked.queries else [])], asked.user_ids
        world = service.world
        door.allow(who, "embed", names, len(users), 2 * len(users) * (len(asked.scenarios) + len(asked.queries)))
        own = [service.suffix(world, name) for name in asked.scenarios] + [Suffix(query) for query in asked.queries]
        suffixes = [*own, *(Suffix(suffix.query) for suffix in own)]
        futures = service.submit(world, users, suffixes, moment_of(asked.as_of), attention=True)
        results = await _unless_gone(request, futures)
        await door.wrote(who, "attention", names, sum(isinstance(result, Found) for result in results), "ok")
        modalities = world.reader.model.towers.modalities

        def shares(told_M: Any) -> dict[str, float]:
            return dict(zip(modalities, map(float, told_M), strict=True))

        data = [
            {
                "user_id": user_id,
                "scenario": name,
                "query": suffix.query,
                "as_of": iso(result.as_of),
                "base": shares(base_M),
                "tuned": shares(own_M) if suffix.tuned else None,
            }
            for user_id, result in zip(users, results, strict=True)
            if isinstance(result, Found)
            for name, suffix, own_M, base_M in zip(
                [*asked.scenarios, *[None] * len(asked.queries)],
                own,
                result.told_GX[: len(own)],
                result.told_GX[len(own) :],
                strict=True,
            )
        ]
        errors = replies.failed(users, results)
        return Json({"model": world.fingerprint, "modalities": modalities, "data": data, "errors": errors})

    @app.post("/v1/statements", tags=["explanations"], response_model=StatementsReply, name="statements")
    async def statements(asked: StatementsRequest, request: Request, who: Who) -> Response:
        """How far each statement lies from each user, under a scenario or a free question: what is known of users with
        no label at all. Needs the scopes of `/v1/embed`."""
        users, names = asked.user_ids, [] if asked.scenario is None else [asked.scenario]
        queries = [] if asked.query is None else [asked.query]
        door.allow(who, "embed", names or [ANY], len(users), len(users) + 10 * len(asked.statements))
        world = service.world
        results, _ = await found(request, world, users, names, queries, moment_of(asked.as_of))
        direction_RO = np.stack([await service.answer(world, statement) for statement in asked.statements])
        suffix = service.suffix(world, names[0]) if names else Suffix(queries[0])
        along_RO = _written_along(world, suffix)
        await door.wrote(who, "statements", names or [ANY], sum(isinstance(one, Found) for one in results), "ok")
        data = [
            {"user_id": user_id, "as_of": iso(result.as_of), "statement": statement, "similarity": float(similarity)}
            for user_id, result in zip(users, results, strict=True)
            if isinstance(result, Found)
            for statement, similarity in zip(
                asked.statements, direction_RO @ without(along_RO, result.told_GX[:1])[0], strict=True
            )
        ]
        return Json({"model": world.fingerprint, "data": data, "errors": replies.failed(users, results)})

    @app.post("/v1/search", tags=["embeddings"], response_model=m.SearchReply, name="search")
    async def search(asked: m.SearchRequest, who: Who) -> Response:
        """The users whose embeddings of the last refresh for a scenario lie nearest to a statement, or to a user."""
        door.allow(who, "search", [asked.scenario], asked.k, 10)
        world = service.world
        along_RO = _written_along(world, service.suffix(world, asked.scenario))
        matrix = world.shelf.matrices.get(asked.scenario)
        if matrix is None or world.shelf.as_of is None:
            raise DataError(f"{asked.scenario!r} is not in the last refresh: name it in the config and refresh")
        if asked.user_id is not None:
            own_O = matrix.get(asked.user_id)
            if own_O is None or asked.user_id in world.forgotten:
                raise HTTPException(404, "this user is not in the last refresh")
            vector_O = without(along_RO, own_O[None])[0]
        else:
            vector_O = await service.answer(world, str(asked.sentence))
        near = await asyncio.to_thread(matrix.nearest, vector_O, asked.k, along_RO)
        near = [one for one in near if one.user_id not in world.forgotten]
        await door.wrote(who, "search", [asked.scenario], len(near), "ok")
        data = [{"user_id": user_id, "similarity": score} for user_id, score in near]
        return Json({"model": world.fingerprint, "as_of": str(world.shelf.as_of), "data": data})


def _written_along(world: World, suffix: Suffix) -> Floats:
    """[R, O] what statements and neighbours know nothing of."""
    return world.reader.model.written_along(suffix.tuned)


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
