"""What lies over user ids and contents at rest: nothing, or a vault's seal (`encrypt: true` in the config).

Whoever writes or reads profiles, embeddings and appended events goes through the cover of its shard, so that there is
one code path for both. Under the clear cover a name is its own key, and sealing gives back what it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

from qanchor.errors import ConfigError, SealError


class Cover(Protocol):
    """Of one shard. Safe between threads."""

    @property
    def sealed(self) -> bool: ...

    def hide(self, name: str) -> str:
        """A name as the key of a row: the same one always, and nobody without the key tells whose it is."""

    def seal(self, plain: bytes, context: bytes) -> bytes: ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises SealError: not what was sealed for this context."""


class Clear:
    """No cover."""

    sealed = False

    def hide(self, name: str) -> str:
        return name

    def seal(self, plain: bytes, context: bytes) -> bytes:
        return plain

    def open(self, sealed: bytes, context: bytes) -> bytes:
        return sealed


CLEAR = Clear()
Covers = Callable[[str], Cover]
"""Of a shard by its name."""


def clear(shard: str) -> Cover:
    return CLEAR


def covers(vault: Path | None) -> Covers:
    """Those of a vault's file, by the master key of the environment; without a vault all lies in the clear.

    Each shard's is made once: a key management service is not asked for every row.

    Raises:
        ConfigError: no master key in the environment, not the one that wrapped the vault, or no `cryptography`.
    """
    if vault is None:
        return clear
    try:
        from qanchor.events.master_key import key_from_environment
        from qanchor.events.vault import Vault
    except ImportError as error:
        raise ConfigError(f"`encrypt: true` needs cryptography ({error}): pip install 'qanchor[serve]'") from None
    return cache(Vault(vault, key_from_environment()).box)


def shard_name(shard: int) -> str:
    """Whose data key seals a shard's profiles and embeddings; also the stem of their files."""
    return f"shard-{shard:04d}"


def context(*parts: str) -> bytes:
    """A blob's place, such as user id and column, as bytes that no other parts give."""
    return b"".join(len(data).to_bytes(4, "big") + data for data in (part.encode() for part in parts))


def kept(cover: Cover, name: str, data: bytes, *place: str) -> tuple[str, bytes]:
    """A name's data as a row: its key, and a blob that also holds the name where the key does not show it."""
    if not cover.sealed:
        return name, data
    key = cover.hide(name)
    return key, cover.seal(context(name) + data, context(*place, key))


def restored(cover: Cover, key: str, blob: bytes, *place: str) -> tuple[str, bytes]:
    """(name, data) of such a row. Raises SealError as `Cover.open`, and says at which place."""
    if not cover.sealed:
        return key, blob
    data = opened(cover, blob, *place, key)
    stop = 4 + int.from_bytes(data[:4], "big")
    return data[4:stop].decode(), data[stop:]


def opened(cover: Cover, blob: bytes, *place: str) -> bytes:
    """The content of a blob at a place, the first part of which is a file's kind. Raises SealError with the place."""
    try:
        return cover.open(blob, context(*place))
    except SealError as error:
        raise SealError(f"a row of {place[0]}: {error}") from None
