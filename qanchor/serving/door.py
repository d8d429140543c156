"""Nobody gets in without a key or token, does more than it grants, or oftener; and what was done is written down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Request

from qanchor.errors import AuditError, BusyError, ConfigError, CredentialError, LimitError, ScopeError
from qanchor.serving.audit import Audit, Entry
from qanchor.serving.keys import KEY, Keys
from qanchor.serving.limits import Limits
from qanchor.serving.principal import ANY, SCENARIO_VERBS, VERBS, Principal
from qanchor.serving.tokens import Tokens

log = logging.getLogger("qanchor.serving")
EVERYBODY = Principal("nobody-asked", frozenset(f"{verb}:{ANY}" if verb in SCENARIO_VERBS else verb for verb in VERBS))
"""Who asks where no key is asked for (`--no-auth`)."""


class Door:
    def __init__(self, keys: Keys | None, tokens: Tokens | None, limits: Limits, audit: Audit) -> None:
        """Without `keys` everybody may do everything."""
        self.keys, self.tokens, self.limits, self.audit = keys, tokens, limits, audit
        self._failed: AuditError | None = None

    async def principal(self, authorization: str | None) -> Principal:
        """Raises CredentialError, also where nothing is given, and ConfigError when the keys cannot be read."""
        if self.keys is None:
            return EVERYBODY
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret:
            raise CredentialError("no API key: send `Authorization: Bearer qa_...` (`qanchor keys add` makes one)")
        if self.tokens and not KEY.fullmatch(secret):
            # may fetch the issuer's keys
            return await asyncio.to_thread(self.tokens.principal, secret)
        return self.keys.principal(secret)

    def admit(self, principal: Principal, cost: float) -> None:
        """Raises LimitError when the principal has used up what it may, in users x questions."""
        if wait := self.limits.take(principal.who, cost):
            raise LimitError(f"{principal.who} asks more than it may: wait {wait:.1f} s", wait)

    def allow(self, who: Principal, verb: str, scenarios: Sequence[str], users: int, cost: float) -> None:
        """Pass only who may do this, now; a refusal is written down. Raises ScopeError, LimitError."""
        try:
            who.require(verb, *scenarios)
            self.admit(who, cost)
        except (ScopeError, LimitError) as error:
            self.writes(who, verb, scenarios, users, "refused" if isinstance(error, ScopeError) else "limited")
            raise

    async def wrote(self, principal: Principal, verb: str, scenarios: Sequence[str], users: int, outcome: str) -> None:
        """A line of the audit log that is on disk when this returns. Raises AuditError."""
        await asyncio.wrap_future(self.audit.write(Entry(principal.who, verb, scenarios, users, outcome)))

    def writes(self, principal: Principal, verb: str, scenarios: Sequence[str], users: int, outcome: str) -> None:
        """A line that is written within milliseconds, not waited for: the next one fails if it could not be.

        Raises:
            AuditError: an earlier line could not be written.
        """
        if self._failed:
            raise self._failed
        done = self.audit.write(Entry(principal.who, verb, scenarios, users, outcome))
        done.add_done_callback(lambda future: self._note(future.exception()))

    def _note(self, error: BaseException | None) -> None:
        if isinstance(error, AuditError):
            self._failed = error
            log.error("the audit log cannot be written: %s", error)


async def principal(request: Request) -> Principal:
    """Who asks. A refusal is written down."""
    door: Door = request.app.state.door
    try:
        return await door.principal(request.headers.get("authorization"))
    except ConfigError as error:
        log.error("nobody gets in: %s", error)
        raise BusyError("keys cannot be checked just now: ask again in a while", 10) from None
    except CredentialError:
        door.writes(Principal("unknown", frozenset()), request.scope["route"].name, (), 0, "no credential")
        raise


Who = Annotated[Principal, Depends(principal)]
