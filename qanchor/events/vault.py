"""Encryption at rest: AES-256-GCM, one data key a shard, each wrapped by a master key that lies elsewhere.

A sealed blob: version (1 byte), data key's id (8), nonce (12), ciphertext, tag (16): 37 bytes more than its content.
The header and the blob's context (whose it is, which column) are authenticated, so a blob that is changed, cut, or
moved to another row, column or shard does not open. An *older* blob put back in its own place does.

Nonces are random: 2^32 blobs a data key at most (NIST SP 800-38D, 8.3), which is a million users sealed daily for
eleven years; `renew` begins another key. Changing the master key wraps the data keys anew and touches no data.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, ValidationError

from qanchor.errors import ConfigError, SealError
from qanchor.events import atomic
from qanchor.events.cover import context
from qanchor.events.master_key import MasterKey

VERSION = b"\x01"
ID, NONCE, TAG = 8, 12, 16
HEADER = len(VERSION) + ID + NONCE


class Box:
    """Seals and opens the blobs of one shard: its cover. Safe between threads."""

    sealed = True

    def __init__(self, keys: dict[bytes, bytes]) -> None:
        """`keys` by their ids, in the order of their making: the last one seals."""
        self._ciphers = {id: AESGCM(key) for id, key in keys.items()}
        self._newest = next(reversed(keys))
        # by the first key: a name must be found again after `renew`
        self._names = hmac.digest(next(iter(keys.values())), b"qanchor names", "sha256")
        self._prefix = VERSION + self._newest

    def hide(self, name: str) -> str:
        """128 bits of an HMAC in hex."""
        return hmac.digest(self._names, name.encode(), "sha256").hex()[:32]

    def seal(self, plain: bytes, context: bytes) -> bytes:
        header = self._prefix + os.urandom(NONCE)
        return header + self._ciphers[self._newest].encrypt(header[-NONCE:], plain, header + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises SealError: not what was sealed, not for this context, or by a key that this shard has not."""
        header, body = sealed[:HEADER], sealed[HEADER:]
        cipher = self._ciphers.get(header[1 : 1 + ID])
        try:
            if cipher is None or header[:1] != VERSION or len(body) < TAG:
                raise InvalidTag
            return cipher.decrypt(header[-NONCE:], body, header + context)
        except InvalidTag:
            raise SealError(
                f"sealed bytes ({len(sealed)}) do not open: changed, cut, moved from another place, or sealed "
                "by another key; restore them from a backup or compute them anew"
            ) from None


class _DataKey(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shard: str
    wrapped: str
    """Base64."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: int = 1
    master: str
    keys: dict[str, _DataKey] = {}
    """By id in hex, in the order of their making."""


class Vault:
    """The wrapped data keys of one store, in one JSON file. Losing the file, or the master key, loses the data.

    Safe between threads and processes: the file is changed under a lock, from what it holds then.
    """

    def __init__(self, path: Path, master: MasterKey) -> None:
        """Raises ConfigError when the file is by another master key."""
        self.path, self.master = path, master
        self._read()

    def box(self, shard: str) -> Box:
        """The shard's box, its first data key made where it has none. Keep it: unwrapping may ask a service."""
        held = self._read()
        if all(key.shard != shard for key in held.keys.values()):
            held = self._add(shard, only_first=True)
        keys = {id: key for id, key in held.keys.items() if key.shard == shard}
        return Box({bytes.fromhex(id): self._unwrap(self.master, id, key) for id, key in keys.items()})

    def renew(self, shard: str) -> Box:
        """The box with another data key for what it seals from now on; what the old ones sealed still opens."""
        self._add(shard, only_first=False)
        return self.box(shard)

    def rotate(self, new: MasterKey) -> int:
        """Wrap every data key by `new`, after which this vault's master key is of no use; how many there were.

        Boxes that are in use go on, here and in other processes. Raises SealError when a key does not unwrap.
        """
        with self._changing() as held:
            for id, key in held.keys.items():
                held.keys[id] = _wrapped(new, id, key.shard, self._unwrap(self.master, id, key))
            held.master = new.name
        self.master = new
        return len(held.keys)

    def _add(self, shard: str, only_first: bool) -> _File:
        with self._changing() as held:
            # another process may have been first
            if not only_first or all(key.shard != shard for key in held.keys.values()):
                id = os.urandom(ID).hex()
                held.keys[id] = _wrapped(self.master, id, shard, AESGCM.generate_key(256))
        return held

    def _unwrap(self, master: MasterKey, id: str, key: _DataKey) -> bytes:
        return master.unwrap(base64.b64decode(key.wrapped), context(id, key.shard))

    @contextmanager
    def _changing(self) -> Iterator[_File]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(self.path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held = self._read()
            yield held
            atomic.write_json(self.path, held.model_dump())

    def _read(self) -> _File:
        if not self.path.exists():
            return _File(master=self.master.name)
        try:
            held = _File.model_validate(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise ConfigError(
                f"{self.path} cannot be read as a vault ({str(error).splitlines()[0]}): restore it"
            ) from None
        if held.master != self.master.name:
            raise ConfigError(
                f"{self.path} is wrapped by {held.master}, got {self.master.name}: give it that master key"
            )
        return held


def _wrapped(master: MasterKey, id: str, shard: str, data_key: bytes) -> _DataKey:
    return _DataKey(shard=shard, wrapped=base64.b64encode(master.wrap(data_key, context(id, shard))).decode())
