"""JSON Web Tokens of an OpenID Connect issuer (RFC 7519, 9068): the same Principal as an API key's.

A token is a bearer's: whoever holds it may use it, any number of times, until `exp`. Its `jti` is not remembered, since
clients send one token with many requests. What limits a stolen one: TLS, LIFETIME, scopes, and that appending an event
twice changes nothing. It cannot be taken back before `exp`; an API key can.
"""

from __future__ import annotations

import time
from typing import Any

import jwt
from jwt.exceptions import ExpiredSignatureError, InvalidTokenError, PyJWTError

from qanchor.errors import CredentialError
from qanchor.serving.jwks import KeySet
from qanchor.serving.principal import Principal, readable

PREFIX = "qanchor:"
"""Our scopes among those of other services in a token's `scope`: `qanchor:embed:takeout qanchor:append`."""
LEEWAY = 30
"""Seconds by which the issuer's clock may differ from ours."""
LIFETIME = 24 * 3600
"""A token that lives longer than these seconds from now is refused: it could not be taken back."""
LONGEST = 8192


class Tokens:
    """Checks tokens by one issuer for one audience. Safe between threads; may block while keys are fetched."""

    def __init__(self, keys: KeySet, issuer: str, audience: str) -> None:
        self.keys, self.issuer, self.audience = keys, issuer, audience
        self._jwt = jwt.PyJWT({"enforce_minimum_key_length": True})

    def principal(self, token: str) -> Principal:
        """Who holds `token`. Scopes that are not ours, or cannot be read, grant nothing.

        Raises:
            CredentialError: not a token; its algorithm, key, signature, issuer, audience, `exp` or `nbf` is not good.
        """
        try:
            return _principal(self._claims(token))
        except ExpiredSignatureError:
            raise CredentialError("the token is expired: get a new one from its issuer") from None
        except (PyJWTError, ValueError, OverflowError, RecursionError) as error:
            reason = str(error) if isinstance(error, PyJWTError) else "not a JSON Web Token"
            raise CredentialError(
                f"token refused ({reason}): expected one by {self.issuer} for {self.audience}"
            ) from None

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > LONGEST:
            raise InvalidTokenError(f"longer than {LONGEST} characters")
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise InvalidTokenError("no kid in its header")
        key = self.keys.key(kid)
        # the algorithm is the key's, never the token's word
        claims: dict[str, Any] = self._jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=self.issuer,
            audience=self.audience,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        if int(claims["exp"]) > time.time() + LIFETIME + LEEWAY:
            raise InvalidTokenError(f"it lives longer than {LIFETIME // 3600} hours")
        return claims


def _principal(claims: dict[str, Any]) -> Principal:
    granted = claims.get("scope", "")
    words = granted.split() if isinstance(granted, str) else granted if isinstance(granted, list) else []
    scopes = (word.removeprefix(PREFIX) for word in words if isinstance(word, str) and word.startswith(PREFIX))
    return Principal(f"token:{claims['sub']}", frozenset(filter(readable, scopes)))
