"""API keys: `qa_ID_SECRET`, shown once, kept as hashes in one JSON file.

The secret is 256 random bits, so SHA-256 without salt is enough at rest: slow, salted hashes protect words that people
choose; here is no dictionary to try, and a fast one keeps a request cheap. Who may *write* the file may make keys.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from qanchor.errors import ConfigError, CredentialError
from qanchor.events import atomic
from qanchor.serving.principal import Principal, checked

KEY = re.compile(r"qa_([0-9a-f]{12})_([0-9a-f]{64})", re.ASCII)
NOBODY = hashlib.sha256(b"no secret has this hash but this one, which is no hex").hexdigest()
"""What the secret of an unknown id is compared with, so that it takes as long as a wrong secret."""
Stamp = tuple[int, int, int]


class Record(BaseModel):
    """What is kept of a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    sha256: str
    scopes: tuple[str, ...]
    created: AwareDatetime
    expires: AwareDatetime
    revoked: AwareDatetime | None = None

    def state(self, now: datetime) -> str:
        """`good`, `expired` or `revoked`."""
        return "revoked" if self.revoked else "expired" if now >= self.expires else "good"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: int = 1
    keys: dict[str, Record] = {}


@dataclass(frozen=True)
class NewKey:
    """A key at its making: the only time that its secret is there to be shown."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, secret='...')"

    def reveal(self) -> str:
        return f"qa_{self.id}_{self.secret}"


class Keys:
    """The keys of one file, read again whenever it has changed, so that `revoke` holds from the next request on.

    A missing file is no key at all. Safe between threads, and between processes that change the same file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[Stamp | None, dict[str, Record]] = (None, {})
        self._reading = threading.Lock()

    def principal(self, key: str) -> Principal:
        """Who holds `key`. An unknown id and a wrong secret take the same path and get the same words.

        Raises:
            CredentialError: not a key of this file, or one that is expired or revoked.
            ConfigError: the file cannot be read; nobody gets in until it can.
        """
        form = KEY.fullmatch(key)
        if not form:
            raise CredentialError("not an API key: expected qa_ID_SECRET as `qanchor keys add` showed it")
        id, secret = form.groups()
        record = self.records().get(id)
        expected = record.sha256 if record else NOBODY
        if not hmac.compare_digest(_sha256(secret), expected) or not record:
            raise CredentialError("unknown API key: make one with `qanchor keys add`")
        state = record.state(datetime.now(UTC))
        if state != "good":
            raise CredentialError(f"API key {id} is {state}: make another with `qanchor keys add` or `keys rotate`")
        return Principal(f"key:{id}", frozenset(record.scopes))

    def records(self) -> dict[str, Record]:
        """Every key by its id. Raises ConfigError when the file cannot be read."""
        stamp = self._stamp()
        if stamp != self._seen[0]:
            with self._reading:
                # the stamp is older than what is read: a change in between is read again next time
                stamp = self._stamp()
                self._seen = (stamp, self._read() if stamp else {})
        return self._seen[1]

    def add(self, name: str, scopes: Iterable[str], lifetime: timedelta) -> NewKey:
        """A new key for whatever `name` says. Raises ConfigError for scopes that mean nothing."""
        allowed = tuple(sorted(checked(scopes)))
        with self._changing() as keys:
            return _add(keys, name, allowed, lifetime)

    def revoke(self, id: str) -> None:
        """The key is refused from now on. Raises ConfigError for an unknown id."""
        with self._changing() as keys:
            old = self._known(keys, id)
            keys[id] = old.model_copy(update={"revoked": old.revoked or datetime.now(UTC)})

    def rotate(self, id: str, grace: timedelta) -> NewKey:
        """A new key of the same name, scopes and lifetime; the old one holds for `grace` longer, at most.

        Raises:
            ConfigError: unknown, expired or revoked id; a dead key is not brought back.
        """
        now = datetime.now(UTC)
        with self._changing() as keys:
            old = self._known(keys, id)
            if old.state(now) != "good":
                raise ConfigError(f"API key {id} is {old.state(now)}: make a new one with `qanchor keys add`")
            keys[id] = old.model_copy(update={"expires": min(old.expires, now + grace)})
            return _add(keys, old.name, old.scopes, old.expires - old.created)

    def _known(self, keys: dict[str, Record], id: str) -> Record:
        if id not in keys:
            raise ConfigError(f"no API key {id!r} in {self.path}: `qanchor keys list` shows the ids")
        return keys[id]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Record]]:
        """Read, change, write, while no other process does."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(self.path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self._read() if self.path.exists() else {}
            yield keys
            atomic.write_json(self.path, _File(keys=keys).model_dump(mode="json"))

    def _read(self) -> dict[str, Record]:
        try:
            return _File.model_validate(json.loads(self.path.read_text(encoding="utf-8"))).keys
        except (OSError, ValueError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"{self.path} cannot be read as API keys ({reason}): restore it; nobody gets in"
            ) from None

    def _stamp(self) -> Stamp | None:
        """Differs when the file does: every write is a new inode."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _add(keys: dict[str, Record], name: str, scopes: tuple[str, ...], lifetime: timedelta) -> NewKey:
    new, now = NewKey(secrets.token_hex(6), secrets.token_hex(32)), datetime.now(UTC)
    keys[new.id] = Record(name=name, sha256=_sha256(new.secret), scopes=scopes, created=now, expires=now + lifetime)
    return new


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
