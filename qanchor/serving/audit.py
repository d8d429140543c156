"""The audit log as its one writer sees it: who did what, in which scenario, to how many users, when, how it ended.

`trail.py` says what a line holds and what a reader can find out.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from qanchor.errors import AuditError, ConfigError
from qanchor.serving.trail import GENESIS, HEAD, Head, file_of, hash_of, load_head, read, starts, verify

LARGEST = 64 << 20
"""Bytes after which a new file is begun."""
GROUP = 1000
"""Lines at most that share one sync."""
ANCHOR = 1.0
"""Seconds at most that a line waits for the head to cover it: a head costs two syncs, too many for every group."""
VARIABLE = "QANCHOR_AUDIT_KEY"


@dataclass(frozen=True)
class Entry:
    """One thing done or refused. No user id, text or secret belongs here."""

    who: str
    verb: str
    scenarios: Sequence[str]
    users: int
    outcome: str


@dataclass(frozen=True)
class Checked:
    """The lines `first` to `last` were found whole `at` that moment; `problems` begin after them."""

    first: int
    last: int
    at: datetime
    problems: tuple[str, ...] = ()


def key_from_environment() -> bytes | None:
    """The key that signs heads: QANCHOR_AUDIT_KEY, 32 bytes or more in base64; None where it is not set."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) < 32:
        raise ConfigError(f"{VARIABLE} is not 32 bytes or more in base64: `openssl rand -base64 32` makes some")
    return key


class Audit:
    """Lines that arrive together share one sync; none is acknowledged before it. Safe between threads.

    After a write or sync that failed, nothing is known of the file's end, and every later line fails too: stop serving,
    mend the disk, open it anew.
    """

    def __init__(self, folder: Path, key: bytes | None = None, largest: int = LARGEST) -> None:
        """Reads the newest file through. What a kill left unfinished at its end is cut away, and a line says so.

        `key` signs the head; without one it protects against accidents only.

        Raises:
            AuditError: another process writes this log, it is not whole, or it was begun with another key or without.
        """
        self.folder, self._key, self._largest = folder, key, largest
        folder.mkdir(parents=True, exist_ok=True)
        self._waiting: queue.SimpleQueue[tuple[bytes, Future[None]] | None] = queue.SimpleQueue()
        self._broken: OSError | None = None
        self._closed = False
        self._at = self._anchored = Head(0, GENESIS)
        self._anchor_due = 0.0
        self._file, self._size = -1, 0
        self._lock = _locked(folder)
        try:
            cut = self._resume()
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()
        if cut:
            self.write(Entry("qanchor", "repair", (), 0, f"cut {cut} bytes that were not written whole")).result()

    def write(self, entry: Entry) -> Future[None]:
        """Done once `entry` is on disk: reply to nobody before. `.result()` waits, and raises AuditError.

        In a coroutine, `await asyncio.wrap_future(audit.write(entry))`; one that is cancelled is written all the same.
        """
        if self._closed:
            raise AuditError(f"the audit log {self.folder} is closed")
        done: Future[None] = Future()
        self._waiting.put((json.dumps(asdict(entry)).encode(), done))
        return done

    @property
    def lines(self) -> int:
        """How many there are on the disk."""
        return self._at.n

    @property
    def signed(self) -> bool:
        """Whether there is a key: without one a check finds accidents only."""
        return self._key is not None

    def verify(self) -> Checked:
        """Read the whole log, from its first file that is not archived, while it goes on."""
        trail = verify(self.folder, self._key, min(starts(self.folder), default=1))
        self.checked = Checked(trail.first, trail.sound.n, datetime.now(UTC), trail.problems)
        return self.checked

    def close(self) -> None:
        """Write what waits, and let go of the log."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join()
        os.close(self._file)
        os.close(self._lock)

    def _resume(self) -> int:
        """Stand behind the last whole line; how many bytes after it were cut away."""
        head, signed = load_head(self.folder / HEAD, self._key)
        held = starts(self.folder)
        if head is None and not held:
            head = Head(0, GENESIS)
        elif head is None or (signed and not self._key):
            raise AuditError(f"{self.folder}: its head is {'signed, set ' + VARIABLE if head else 'gone, restore it'}")
        start = held[-1] if held else 1
        trail = read(self.folder, [head], start)
        if trail.sound.n < head.n or start > head.n + 1:
            wrong = [*trail.problems, f"a file begins at line {start}, the head says {head.n}"][0]
            raise AuditError(f"{self.folder}: {wrong}. Keep it as evidence, and begin another log")
        self._open(start)
        cut, self._size = self._size - trail.sound_bytes, trail.sound_bytes
        os.ftruncate(self._file, self._size)
        # lines past the head may not have been synced, and a head must not run ahead of the disk
        os.fsync(self._file)
        self._at = trail.sound
        self.checked = Checked(start, trail.sound.n, datetime.now(UTC))
        self._anchor()
        return cut

    def _open(self, start: int) -> None:
        self._file = os.open(file_of(self.folder, start), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self._size = os.fstat(self._file).st_size
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _run(self) -> None:
        going = True
        while going:
            bodies, waiting, going = self._gather()
            failure = self._append(bodies)
            for done in waiting:
                if failure:
                    done.set_exception(failure)
                else:
                    done.set_result(None)
            if self._past_head() and (not going or time.monotonic() >= self._anchor_due):
                try:
                    self._anchor()
                except OSError as error:
                    self._broken = error

    def _gather(self) -> tuple[list[bytes], list[Future[None]], bool]:
        """All that waits, at most GROUP (none if a head falls due); who wants an answer; whether more may come."""
        bodies: list[bytes] = []
        waiting: list[Future[None]] = []
        patience = max(self._anchor_due - time.monotonic(), 0.0) if self._past_head() else None
        while True:
            try:
                item = self._waiting.get(timeout=patience)
            except queue.Empty:
                return bodies, waiting, True
            if item is None:
                return bodies, waiting, False
            body, done = item
            bodies.append(body)
            # who was cancelled meanwhile gets no answer, but did what is to be written
            if done.set_running_or_notify_cancel():
                waiting.append(done)
            if len(bodies) == GROUP or self._waiting.empty():
                return bodies, waiting, True

    def _append(self, bodies: list[bytes]) -> AuditError | None:
        """Chain, write and sync a group of lines; what went wrong."""
        if not bodies:
            return None
        try:
            if self._broken:
                raise self._broken
            if self._size >= self._largest:
                self._turn()
            at, lines = self._at, []
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            for body in bodies:
                line = f'{{"n": {at.n + 1}, "prev": "{at.hash}", "at": "{now}", '.encode() + body[1:]
                lines.append(line)
                at = Head(at.n + 1, hash_of(line))
            data = memoryview(b"".join(line + b"\n" for line in lines))
            self._size += len(data)
            while data:
                data = data[os.write(self._file, data) :]
            os.fdatasync(self._file)
            self._at = at
            return None
        except OSError as error:
            self._broken = error
            return AuditError(f"the audit log {self.folder} cannot be written ({error}): mend that, then start again")

    def _turn(self) -> None:
        """Begin a new file. Its first line's hash is found in the head, should it stay empty."""
        self._anchor()
        os.close(self._file)
        self._open(self._at.n + 1)

    def _past_head(self) -> bool:
        return self._at != self._anchored and not self._broken

    def _anchor(self) -> None:
        self._at.save(self.folder, self._key)
        self._anchored, self._anchor_due = self._at, time.monotonic() + ANCHOR


def _locked(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise AuditError(f"another process writes the audit log {folder}: stop it, or give this one its own") from None
    return lock
