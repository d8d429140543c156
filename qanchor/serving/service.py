"""The service without HTTP: what each verb does, on one event loop, with the model on a thread of its own.

Shapes: G questions, O dimensions, M modalities, X = O or M.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from qanchor.daily import Daily
from qanchor.errors import DataError, QAnchorError
from qanchor.events.forgotten import Forgotten
from qanchor.forget import Trace, forget
from qanchor.serving import delivery
from qanchor.serving import world as worlds
from qanchor.serving.batcher import Batcher
from qanchor.serving.inbox import Appended, Inbox
from qanchor.serving.live import Live, Word, moved_to, unknown
from qanchor.serving.metrics import Metrics
from qanchor.serving.reader import Ask, Suffix
from qanchor.serving.world import Scenarios, World

log = logging.getLogger("qanchor.serving")
Floats = npt.NDArray[np.float32]
R = TypeVar("R")
WARM_BYTES = 512 << 20
WATCH = 1.0
"""Seconds between two looks at whether there is a new model or refresh."""
DELIVER = 10.0
"""Seconds after which appended events are in log files."""
REMEMBERED = 30 * 86_400
"""Seconds for which the id of an appended event is known at least."""


@dataclass(frozen=True)
class Want:
    """One user whom the model is to read; `moment` in seconds, None: the last refresh."""

    world: World
    user_id: str
    moment: int | None
    suffixes: tuple[Suffix, ...]
    attention: bool = False
    """Shares of attention are asked for, not embeddings."""


@dataclass(frozen=True)
class Found:
    as_of: int
    """Seconds."""
    told_GX: Floats
    """[G, O] embeddings, or [G, M] shares of attention."""


class Service:
    """A project that answers. `start` before anything else, `close` at the end."""

    def __init__(self, daily: Daily, warm_bytes: int = WARM_BYTES) -> None:
        self.daily, self.config = daily, daily.project.config
        self.folder = daily.project.out / "serving"
        self.scenarios = Scenarios(
            self.folder / "scenarios.json", {name: scenario.query for name, scenario in self.config.scenarios.items()}
        )
        self.metrics = Metrics()
        self.stale: str | None = None
        """Why something newer on the disk is not answered from."""
        self._warm_bytes = warm_bytes
        self._tried: worlds.Stamp | None = None
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Raises QAnchorError: no model, no store."""
        self.world = await asyncio.to_thread(worlds.load, self.daily, None, self._warm_bytes)
        cover = await asyncio.to_thread(self.daily.covers, "inbox")
        self.inbox = Inbox(self.folder / "inbox.sqlite", cover)
        self.batcher: Batcher[Want, Found | str] = Batcher(self._read)
        self._appended = await self._on_thread(Appended, self.inbox.path, cover)
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._deliver())]

    async def close(self) -> None:
        """Every acknowledged event is in a log file then."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.inbox.close)
        await self.deliver()
        await self._on_thread(self._appended.close)
        await self.batcher.close()

    # -- embeddings ---------------------------------------------------------------------------------------------

    def suffix(self, world: World, name: str) -> Suffix:
        """Raises DataError: no such scenario."""
        try:
            return self.scenarios.suffix(name, world.reader.model)
        except KeyError:
            raise DataError(f"no scenario {name!r}: `GET /v1/scenarios` lists them") from None

    def stored(self, world: World, user_id: str, names: Sequence[str]) -> Found | None:
        """What the last refresh left of a user, if it has all of these scenarios."""
        if user_id in world.forgotten:
            return None
        rows = []
        for name in names:
            matrix = world.shelf.matrices.get(name)
            row_O = None if matrix is None else matrix.get(user_id)
            if row_O is None:
                return None
            rows.append(row_O)
        assert world.shelf.as_of
        return Found(_midnight(world.shelf.as_of), rows[0][None] if len(rows) == 1 else np.stack(rows))

    def submit(
        self,
        world: World,
        user_ids: Sequence[str],
        suffixes: Sequence[Suffix],
        moment: int | None,
        attention: bool = False,
    ) -> list[asyncio.Future[Found | str]]:
        """Futures of users whom the model is to read. Raises BusyError."""
        return self.batcher.submit([Want(world, user_id, moment, tuple(suffixes), attention) for user_id in user_ids])

    def _read(self, wants: Sequence[Want]) -> list[Found | str]:
        """On the model's thread."""
        found: list[Found | str] = [""] * len(wants)
        asks: defaultdict[tuple[int, bool], list[tuple[int, Ask]]] = defaultdict(list)
        words: dict[int, Word] = {}
        for n, want in enumerate(wants):
            live = self._live(want)
            if isinstance(live, str):
                found[n] = live
                continue
            if len(missing := unknown(live, want.world.reader.texts)):
                words |= self._appended.words(missing.tolist())
            asks[id(want.world), want.attention].append((n, Ask(live, want.suffixes)))
        for (_, attention), group in asks.items():
            reader = wants[group[0][0]].world.reader
            told = (reader.attend if attention else reader.embed)([ask for _, ask in group], words)
            for (n, ask), told_GX in zip(group, told, strict=True):
                found[n] = told_GX if isinstance(told_GX, str) else Found(ask.live.as_of, told_GX)
            self.metrics.warm(reader)
        self.metrics.batches.observe(len(wants))
        return found

    def _live(self, want: Want) -> Live | str:
        """The user at the moment that is asked for, or why there is none."""
        world, user_id = want.world, want.user_id
        kept = world.kept.events(user_id)
        if kept is None:
            return "nothing was refreshed yet: run `qanchor refresh`"
        if user_id in world.forgotten:
            return "no events in the window"
        as_of, events = _midnight(kept[0]), kept[1]
        if want.moment is None:
            return Live(user_id, as_of, events) if len(events) else "no events in the window at the last refresh"
        if want.moment < as_of:
            return f"as_of lies before the last refresh ({iso(as_of)}): embed the past with `qanchor embed --as-of`"
        # what came before the last refresh, late, is the next refresh's business: it cannot be told from what is in it
        events = moved_to(want.moment, events, self._appended.since(user_id, as_of, want.moment), world.lookback)
        return Live(user_id, want.moment, events) if len(events) else "no events in the window"

    async def timeline(
        self, user_id: str, moment: int | None, limit: int
    ) -> tuple[int, list[tuple[int, str, str, float]]]:
        """(time, modality, text, value) of a user, newest first. Raises DataError: nothing is known."""
        return await self._on_thread(self._timeline, Want(self.world, user_id, moment, ()), limit)

    def _timeline(self, want: Want, limit: int) -> tuple[int, list[tuple[int, str, str, float]]]:
        live = self._live(want)
        if isinstance(live, str):
            raise DataError(live)
        texts, found = want.world.reader.texts, []
        words = self._appended.words(unknown(live, texts).tolist())
        for event in live.events[::-1][:limit]:
            id, place = int(event["text"]), int(np.searchsorted(texts.ids, event["text"]))
            known = place < len(texts) and int(texts.ids[place]) == id
            text = texts.text[place] if known else words[id][2] if id in words else "?"
            modality = want.world.reader.model.towers.modalities[event["modality"]]
            found.append((int(event["time"]), modality, text, float(event["value"])))
        return live.as_of, found

    async def appended(self) -> int:
        """Events in the inbox."""
        return await self._on_thread(self._appended.count)

    async def answer(self, world: World, sentence: str) -> Floats:
        """[O] along which users lie of whom it is true. Raises ModelError: no word in it."""
        return await self._on_thread(world.reader.answer, sentence)

    # -- changes ------------------------------------------------------------------------------------------------

    async def append(self, name: str, sent: Sequence[delivery.Sent]) -> list[bool | str]:
        """For each event whether it is new, or why it is refused; all others are on disk.

        Raises:
            ConfigError: no such source. BusyError: too many wait. DataError: the disk failed.
        """
        source = delivery.source_named(self.config, name)
        found = await asyncio.to_thread(delivery.read, self.config, source, sent)
        found = [
            "this user was forgotten" if not isinstance(each, str) and each.user_id in self.world.forgotten else each
            for each in found
        ]
        arrivals = [each for each in found if not isinstance(each, str)]
        new = await asyncio.wrap_future(self.inbox.append(arrivals)) if arrivals else []
        if late := [each.user_id for each in arrivals if each.user_id in self.world.forgotten]:
            await self._on_thread(self._appended.forget, late)  # forgotten while it was written
        done = iter(new)
        return [each if isinstance(each, str) else next(done) for each in found]

    async def forget(self, user_id: str) -> list[Trace]:
        """Wherever the project and the service keep something of a user.

        Raises:
            DataError: an ingest or a refresh is at work.
        """
        async with self._changing:
            traces = await asyncio.to_thread(forget, self.daily, [user_id])
            # from here on the old world does not answer for the user either, should there be no new one yet
            self.world = replace(self.world, forgotten=Forgotten(self.daily.project.storage / "store"))
            number = await self._on_thread(self._appended.forget, [user_id])
            await self.deliver()
            await self._on_thread(self.world.reader.warm.forget, user_id)
        await self.look()
        return [*traces, Trace("appended events", number, 0)]

    async def _reload(self) -> None:
        """Take up what is on the disk, and let go of what it says is over."""
        self.world = await asyncio.to_thread(worlds.load, self.daily, self.world, self._warm_bytes)
        self.stale = None
        gone = [user for user in await self._on_thread(self._appended.users) if user in self.world.forgotten]
        if gone:  # by `qanchor forget`
            await self._on_thread(self._appended.forget, gone)
            await self.deliver()
        if as_of := self.world.shelf.as_of:
            moment, arrived = _midnight(as_of), int(time.time()) - REMEMBERED
            await self._on_thread(self._appended.drop_before, moment, arrived)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH)
            await self.look()

    async def look(self) -> None:
        """Take up a new model, refresh, probe or list of the forgotten, if there is one."""
        async with self._changing:
            try:
                seen = await asyncio.to_thread(worlds.stamp, self.daily)
                if seen in (self.world.stamp, self._tried):
                    return
                self._tried = seen
                await self._reload()
                log.info(
                    "answering from the refresh as of %s, model %s", self.world.shelf.as_of, self.world.fingerprint
                )
            except Exception as error:  # half-written files, a model without a refresh: the old world goes on
                self.stale = str(error) if isinstance(error, QAnchorError) else type(error).__name__
                log.warning("something new cannot be taken up yet: %s", self.stale)

    async def deliver(self) -> None:
        """Appended events into log files, now."""
        await self._on_thread(delivery.deliver, self.config, self._appended)

    async def _deliver(self) -> None:
        while True:
            await asyncio.sleep(DELIVER)
            try:
                await self.deliver()
            except Exception as error:
                log.error("appended events cannot be written as log files: %s", type(error).__name__)

    async def _on_thread(self, work: Callable[..., R], *arguments: Any) -> R:
        """Run on the model's thread, whose the inbox's reader and the profiles are."""
        return await asyncio.get_running_loop().run_in_executor(self.batcher.thread, work, *arguments)


def moment_of(as_of: str | dt.datetime) -> int | None:
    """Seconds; None for the last refresh."""
    if isinstance(as_of, dt.datetime):
        return int(as_of.timestamp())
    return int(time.time()) if as_of == "now" else None


def _midnight(day: dt.date) -> int:
    return int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())


def iso(moment: int) -> str:
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
