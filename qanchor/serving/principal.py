"""Who asks, and what they may do: what comes out of an API key or a token.

A scope is a verb, and a scenario where the verb has one: `embed:takeout`, `embed:*`, `append`. What is not granted is
refused, `admin` grants nothing but itself, and a scope that cannot be read grants nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qanchor.errors import ConfigError, ScopeError

SCENARIO_VERBS = frozenset({"embed", "score", "search"})
VERBS = SCENARIO_VERBS | {"append", "forget", "admin"}
ANY = "*"
"""As a scope's scenario: all of them, and queries in free words. Asked for, it means a query in free words."""


@dataclass(frozen=True)
class Principal:
    who: str
    """`key:ID` or `token:SUBJECT`: the name in the audit log and of the rate limit."""
    scopes: frozenset[str]

    def require(self, verb: str, *scenarios: str) -> None:
        """Pass only if `verb` is granted; a verb that has scenarios, for each of them (ANY for free words).

        Raises:
            ScopeError: it is not; or a verb that needs scenarios was asked about none, so that no caller forgets them.
        """
        if verb not in SCENARIO_VERBS:
            needed = [verb]
        elif f"{verb}:{ANY}" in self.scopes:
            return
        else:
            needed = [f"{verb}:{scenario}" for scenario in scenarios or (ANY,)]
        for scope in needed:
            if scope not in self.scopes:
                raise ScopeError(f"{self.who} may not {scope}: ask for a key or token with that scope")


def readable(scope: str) -> bool:
    """Whether `scope` is a verb of qanchor, with a scenario exactly where the verb has one."""
    verb, colon, scenario = scope.partition(":")
    return bool(colon and scenario) if verb in SCENARIO_VERBS else scope in VERBS


def checked(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes that somebody typed. Raises ConfigError for none, and for one that would grant nothing."""
    asked = frozenset(scopes)
    unreadable = sorted(scope for scope in asked if not readable(scope))
    if unreadable or not asked:
        with_scenario, without = sorted(SCENARIO_VERBS), sorted(VERBS - SCENARIO_VERBS)
        raise ConfigError(
            f"scopes {unreadable or 'are missing'}: write VERB:SCENARIO or VERB:{ANY} for {', '.join(with_scenario)}, "
            f"VERB alone for {', '.join(without)}"
        )
    return asked
