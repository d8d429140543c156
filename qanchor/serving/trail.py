"""The audit log as a reader sees it: files of chained lines, and the head that says how far they reach.

Each line holds its number `n` and `prev`, the SHA-256 of the line before (its bytes without the newline), over the ends
of files too. A file is named by its first line's number. `head.json` has the last line's number and hash, under an HMAC
by a key that is not in the folder. So an edited, dropped, inserted or reordered line breaks the chain or misses the
head, and a tail that is cut off falls short of it.

What no reader of the folder can tell: a tail cut off *with* an older head put back, or everything removed (keep a copy
of the head elsewhere and give it to `verify`); a change to lines past the head, those of the last second before a kill;
anything done by who holds the HMAC's key or, for a log without one, by who may write the folder.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qanchor.errors import AuditError
from qanchor.events import atomic

GENESIS = "0" * 64
"""What the first line has as the hash of the line before."""
HEAD = "head.json"


@dataclass(frozen=True)
class Head:
    n: int
    hash: str

    def save(self, folder: Path, key: bytes | None) -> None:
        """Durable, but for its place in the folder, which the next one makes sure of."""
        mac = _mac(self, key) if key else None
        atomic.write(folder / HEAD, _json({"n": self.n, "hash": self.hash, "mac": mac}), sync_folder=False)


@dataclass(frozen=True)
class Trail:
    """What `read` found from line `first` on."""

    first: int
    last: int
    sound: Head
    """The last line before anything was wrong."""
    sound_bytes: int
    """Where it ends in its file."""
    torn: int
    """Bytes after the last newline: a line that was being written when the writer was killed, or is just now."""
    past_head: int
    """Lines that no head covers yet."""
    problems: tuple[str, ...]


def load_head(path: Path, key: bytes | None) -> tuple[Head | None, bool]:
    """The head in a file, None where there is no file, and whether it is signed.

    Raises:
        AuditError: it cannot be read; or `key` is given and did not sign it.
    """
    try:
        held = json.loads(path.read_bytes())
        head, mac = Head(int(held["n"]), str(held["hash"])), held["mac"]
    except FileNotFoundError:
        return None, False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuditError(f"{path} cannot be read as a log's head ({error}): restore it") from None
    if key and not hmac.compare_digest(_mac(head, key).encode(), str(mac).encode()):
        raise AuditError(f"{path} is not signed by this key: somebody else wrote it, or the log began without the key")
    return head, mac is not None


def verify(folder: Path, key: bytes | None = None, first: int = 1, kept: Path | None = None) -> Trail:
    """Read the whole log from line `first` on; earlier files may have been archived. The log may be in use.

    `key` checks the head's signature, `kept` is a copy of an earlier head from elsewhere. No problem is raised: all are
    in the result.
    """
    heads, problems = [], []
    for path in [folder / HEAD, *([kept] if kept else [])]:
        # before the lines, so that a writer cannot overtake us
        try:
            head, _ = load_head(path, key)
        except AuditError as error:
            problems.append(str(error))
            continue
        if head is None:
            problems.append(f"{path} is missing: nothing says how far the log reaches")
        else:
            heads.append(head)
    return read(folder, heads, first, problems)


def read(folder: Path, heads: Iterable[Head], first: int, problems: Iterable[str] = ()) -> Trail:
    """Walk the chain from line `first`, which begins a file, to its end, and hold it against `heads`."""
    anchors = {head.n: head.hash for head in heads}
    found, reach = list(problems), max(anchors, default=0)
    before = anchors.get(first - 1, GENESIS if first == 1 else None)
    sound, sound_bytes, last, torn, whole = Head(first - 1, before or ""), 0, first - 1, 0, True
    held = [start for start in starts(folder) if start >= first]
    for start in held:
        offset = 0
        with file_of(folder, start).open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    torn = len(line)
                    break
                wrong, number, line_hash = _look(line[:-1], last, before, anchors)
                if offset == 0 and number != start:
                    wrong = f"the file of line {start} begins with line {number}"
                offset += len(line)
                if wrong:
                    found.append(wrong)
                    whole = False
                before, last = line_hash, number
                if whole:
                    sound, sound_bytes = Head(number, line_hash), offset
        if torn and start != held[-1]:
            found.append(f"the file of line {start} ends within a line")
            whole, torn = False, 0
    if last < reach:
        found.append(f"the log ends at line {last}, its head says {reach}: lines are cut off")
    return Trail(first, last, sound, sound_bytes, torn, max(last - reach, 0), tuple(found))


def _look(line: bytes, last: int, before: str | None, anchors: dict[int, str]) -> tuple[str, int, str]:
    """What is wrong with a line after line `last` of hash `before` (None: not known), its number, its hash."""
    line_hash = hash_of(line)
    try:
        record = json.loads(line)
        number, prev = int(record["n"]), record["prev"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"line {last + 1} cannot be read: it was changed", last + 1, line_hash
    if number != last + 1:
        return f"after line {last} comes line {number}: lines are missing, or out of order", number, line_hash
    if before is not None and prev != before:
        return f"line {number} does not follow the line before it: one of them was changed", number, line_hash
    if anchors.get(number, line_hash) != line_hash:
        return f"line {number} is not the one that the head stands for: a line up to it was changed", number, line_hash
    return "", number, line_hash


def starts(folder: Path) -> list[int]:
    """The numbers that name the log's files, in order."""
    return sorted(int(path.stem) for path in folder.glob("*.jsonl") if path.stem.isdigit())


def file_of(folder: Path, start: int) -> Path:
    return folder / f"{start:012d}.jsonl"


def hash_of(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _mac(head: Head, key: bytes) -> str:
    return hmac.new(key, f"qanchor audit head {head.n} {head.hash}".encode(), hashlib.sha256).hexdigest()


def _json(record: dict[str, object]) -> bytes:
    return json.dumps(record).encode() + b"\n"
