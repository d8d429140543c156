"""Options that verbs share, and the project that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The project's YAML.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; left out, runs/NAME of the config.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]


def opened(config: Path, out: Path | None, stderr: bool) -> Any:
    """The project; `stderr` keeps what it tells on the way out of a verb's own output."""
    from qanchor.pipeline import Project  # not before: `qanchor --help` is to be quick

    return Project.open(config, out, Console(stderr=stderr))
