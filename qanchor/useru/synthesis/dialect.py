"""Options of a chat request that not every OpenAI-compatible server takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from qanchor.useru.synthesis.replies import Reply, schema

POORER: dict[str, Literal["json_object", "text"]] = {"json_schema": "json_object", "json_object": "text"}
"""What to ask for where a server refuses a format. Without one, the prompt's own words must do."""


@dataclass(frozen=True)
class Dialect:
    """How a server is spoken to: in the best way at first, then without what it refuses."""

    format: Literal["json_schema", "json_object", "text"] = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True

    def options(self, kind: type[Reply], limit: int, temperature: float) -> dict[str, Any]:
        """Keyword arguments of the request."""
        options: dict[str, Any] = {self.limit: limit}
        if self.temperature:
            options["temperature"] = temperature
        if self.format == "json_schema":
            named = {"name": kind.__name__.lower(), "schema": schema(kind), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self.format == "json_object":
            options["response_format"] = {"type": "json_object"}
        return options

    def without(self, refused: str) -> Dialect | None:
        """The next way to try, by the words in which a server refused this one; None where it was about else."""
        if self.format in POORER and any(word in refused for word in ("response_format", "json_schema", "json_object")):
            return replace(self, format=POORER[self.format])
        if self.limit == "max_tokens" and "max_completion_tokens" in refused:
            return replace(self, limit="max_completion_tokens")
        if self.temperature and "temperature" in refused:
            return replace(self, temperature=False)
        return None
