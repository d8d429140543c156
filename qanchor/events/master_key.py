"""Master keys: what wraps a vault's data keys and lies apart from the data: in the environment, a file, a service."""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qanchor.errors import ConfigError, SealError

NONCE = 12
VARIABLE, FILE, SERVICE = "QANCHOR_MASTER_KEY", "QANCHOR_MASTER_KEY_FILE", "QANCHOR_KMS"


class MasterKey(Protocol):
    """What wraps data keys: a key in memory, or a key management service that never shows its own."""

    @property
    def name(self) -> str:
        """Which master key this is; kept beside what it wrapped."""

    def wrap(self, data_key: bytes, context: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises SealError when `wrapped` is not by this key for this context."""


@dataclass(frozen=True, repr=False)
class LocalKey:
    """A master key of 32 bytes in this process's memory."""

    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != 32:
            raise ConfigError(
                f"a master key of {len(self.secret)} bytes: expected 32; `qanchor vault key FILE` makes one"
            )

    def __repr__(self) -> str:
        return f"LocalKey({self.name}, secret=...)"

    @property
    def name(self) -> str:
        """Tells two keys apart and tells nothing of either: a hash of 256 random bits."""
        return "local:" + hashlib.sha256(b"qanchor master key" + self.secret).hexdigest()[:16]

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + AESGCM(self.secret).encrypt(nonce, data_key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        try:
            return AESGCM(self.secret).decrypt(wrapped[:NONCE], wrapped[NONCE:], context)
        except (InvalidTag, ValueError):
            raise SealError(
                f"a data key does not unwrap by {self.name}: the vault's file was changed, restore it"
            ) from None


def key_from_environment() -> MasterKey:
    """The master key in QANCHOR_MASTER_KEY (base64), in the file that QANCHOR_MASTER_KEY_FILE names, or whatever
    the function returns that QANCHOR_KMS names (`package.module:function`, called without arguments).

    Raises ConfigError when none or several are set, or the key is unreadable.
    """
    there = [name for name in (VARIABLE, FILE, SERVICE) if name in os.environ]
    if len(there) != 1:
        raise ConfigError(
            f"{' and '.join(there) or 'no master key'} in the environment, expected one: {VARIABLE} (32 bytes in "
            f"base64), {FILE} (`qanchor vault key FILE` makes one), or {SERVICE} (package.module:function)"
        )
    (name,) = there
    value = os.environ[name]
    if name == FILE:
        return key_from_file(Path(value))
    return _service(value) if name == SERVICE else LocalKey(_decoded(value, VARIABLE))


def _service(value: str) -> MasterKey:
    module, _, function = value.partition(":")
    try:
        made: MasterKey = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{SERVICE}={value}: {error}; expected package.module:function") from None
    return made


def key_from_file(path: Path) -> LocalKey:
    """The master key (base64) in a file that only its owner may read. Raises ConfigError for any other file."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1024)
    except OSError as error:
        raise ConfigError(f"no master key in {path} ({error.strerror}): `qanchor vault key {path}` makes one") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} is open to others (mode {mode & 0o777:o}): chmod 600 it, or make a new key")
    return LocalKey(_decoded(text.decode("ascii", "replace"), str(path)))


def make_key_file(path: Path) -> LocalKey:
    """A new random master key in a new file that only its owner may read. Raises ConfigError when the file exists."""
    key = LocalKey(os.urandom(32))
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists, and data may be sealed by it: choose another name") from None
    with os.fdopen(file, "wb") as out:
        out.write(base64.b64encode(key.secret) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    return key


def _decoded(text: str, place: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except ValueError:
        raise ConfigError(f"{place} is not base64: expected 32 bytes in base64") from None
