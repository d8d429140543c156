"""The public keys that an issuer signs tokens with: a JSON Web Key Set (RFC 7517), from a URL or a file."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from qanchor.errors import ConfigError, CredentialError

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
"""Asymmetric ones only: with them in reach, HS256 could be forged by whoever has read the public key."""
REFETCH = 60.0
"""Seconds between two fetches that tokens with unknown key ids can cause."""
FRESH = 600.0
"""Seconds after which the set is fetched again, so that a key which the issuer has taken back goes."""
STALE = 3600.0
"""Seconds for which the last set holds while the issuer does not answer; then nobody gets in by token."""
TIMEOUT = 5.0
LARGEST = 1 << 20
log = logging.getLogger(__name__)
LOCAL = {"localhost", "127.0.0.1", "::1"}


class KeySet:
    """Safe between threads: one fetches, the others go on with what there is."""

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`source` is an https URL (http only to this machine) or a path. Nothing is fetched yet.

        Raises:
            ConfigError: any other URL.
        """
        url = urlsplit(source)
        if "://" in source and not (url.scheme == "https" or (url.scheme == "http" and url.hostname in LOCAL)):
            raise ConfigError(
                f"JWKS from {source}: expected https:// or a path, or whoever is in between makes the keys"
            )
        self.source, self._clock = source, clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched, self._tried = float("-inf"), float("-inf")
        self._fetching = threading.Lock()

    def key(self, kid: str) -> PyJWK:
        """The key of that id. May fetch, and so block for TIMEOUT seconds, about once in FRESH seconds.

        Raises:
            CredentialError: no such key, also after a fetch; or the issuer has not answered for too long.
        """
        age = self._clock() - self._fetched
        if (kid not in self._keys or age > FRESH) and self._clock() - self._tried >= REFETCH:
            self._fetch()
        if self._clock() - self._fetched > STALE:
            raise CredentialError(f"tokens cannot be checked: no keys from {self.source}; try again in a minute")
        if kid not in self._keys:
            raise CredentialError("the token is signed by a key that its issuer does not publish: get a new one")
        return self._keys[kid]

    def _fetch(self) -> None:
        if not self._fetching.acquire(blocking=not self._keys):
            return
        try:
            if self._clock() - self._tried < REFETCH:
                return  # another thread has just done it
            try:
                self._keys = _usable(json.loads(_read(self.source)))
                self._fetched = self._clock()
            except (OSError, ValueError, http.client.HTTPException) as error:
                log.warning("no keys from %s (%s); the last ones hold for %d s", self.source, error, STALE)
            self._tried = self._clock()
        finally:
            self._fetching.release()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to http, or into the network behind us."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        return None


def _read(source: str) -> bytes:
    if "://" not in source:
        return Path(source).read_bytes()
    with urllib.request.build_opener(_NoRedirect).open(source, timeout=TIMEOUT) as reply:
        data: bytes = reply.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    return data


def _usable(document: object) -> dict[str, PyJWK]:
    """The set's signing keys of our algorithms, by id; others (encryption, symmetric, without id) are passed over."""
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a key set")
    usable = {}
    for entry in document["keys"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = PyJWK.from_dict(entry)
        except PyJWTError:
            continue
        if key.algorithm_name in ALGORITHMS:
            usable[entry["kid"]] = key
    return usable
