"""One model, many requests: what waits is read together, for no longer than a latency budget."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from qanchor.errors import BusyError

LARGEST = 128
"""Items of a batch."""
PATIENCE = 0.003
"""Seconds that the first item of a batch waits for others, while the model has nothing to do."""
WAITING = 2048
"""Items that may wait; more are refused at once."""

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Calls `work` with batches, on one thread of its own, and answers each item by its result.

    An item whose future is cancelled before its turn (a client that is gone) is dropped.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], waiting: int = WAITING) -> None:
        self._work, self._limit = work, waiting
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._came = asyncio.Event()
        self._full = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "model")
        self._task = asyncio.create_task(self._run())

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, items: Sequence[T]) -> list[asyncio.Future[R]]:
        """A future for each item. Raises BusyError, and takes none of them, when too many wait."""
        while self._waiting and self._waiting[0][1].cancelled():
            self._waiting.popleft()
        if len(self._waiting) + len(items) > self._limit:
            raise BusyError(f"{len(self._waiting)} users wait for the model already: ask again in a second", 1)
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[R]] = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._came.set()
        if len(self._waiting) >= LARGEST:
            self._full.set()
        return futures

    async def close(self) -> None:
        """Let go of whoever waits."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(BusyError("the service is stopping: ask again", 1))
        self.thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._came.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), PATIENCE)
            batch = self._take()
            if not batch:
                continue
            items = [item for item, _ in batch]
            try:
                results = await loop.run_in_executor(self.thread, self._work, items)
            except (Exception, asyncio.CancelledError) as error:
                stopping = isinstance(error, asyncio.CancelledError)
                for _, future in batch:
                    if not future.done():
                        future.set_exception(BusyError("the service is stopping: ask again", 1) if stopping else error)
                if stopping:
                    raise
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        """The next batch; what was cancelled meanwhile is not in it."""
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < LARGEST:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        if not self._waiting:
            self._came.clear()
        if len(self._waiting) < LARGEST:
            self._full.clear()
        return batch
