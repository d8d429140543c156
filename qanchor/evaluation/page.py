"""The frame of a report: one HTML page that needs nothing else, on a desk, on a phone, in the dark and on paper."""

from __future__ import annotations

import os
from html import escape
from importlib import resources
from pathlib import Path


def write(path: Path, title: str, origin: str, body: str) -> None:
    """Write the page, replaced atomically. `title` is text; `origin` (the line below it) and `body` are HTML."""
    css = resources.files("qanchor.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    fresh = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_text(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · qanchor</title>
<style>
{css}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="quiet">{origin}</p>
</header>
{body}
</body>
</html>
""",
        encoding="utf-8",
    )
    os.replace(fresh, path)
