"""One user model for all scenarios: event logs in, query-anchored user embeddings out."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["QAnchor", "__version__"]

if TYPE_CHECKING:
    from qanchor.inference.engine import QAnchor


def __getattr__(name: str) -> object:
    if name == "QAnchor":  # imported on first use: `qanchor --help` should not wait for torch
        from qanchor.inference.engine import QAnchor

        return QAnchor
    raise AttributeError(f"module 'qanchor' has no attribute {name!r}")
