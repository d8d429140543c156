"""The prompts, one text file a step and language; `$name` stands for what is filled in.

`system.txt` goes before all of a user's requests, and each of them starts with the profile: a server that keeps the KV
of a common beginning reads a profile once.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from string import Template


def prompt(name: str, **parts: str) -> str:
    """The prompt `name` ("en/topics", "pool") with its parts filled in; what they hold is never read as a template."""
    return Template(source(name)).substitute(parts)


@cache
def source(name: str) -> str:
    """The prompt as it stands in its file."""
    return (resources.files(__name__) / f"{name}.txt").read_text(encoding="utf-8").strip()
