"""Who made an embedding: what is learnt from embeddings (a probe) holds for those of the same maker only."""

from __future__ import annotations

from qanchor.inference.engine import QAnchor
from qanchor.inference.snapshot import digest


def makers(model: QAnchor, fingerprint: str) -> dict[str, str]:
    """Tuned scenario -> a hash of the model's `fingerprint` and the scenario's soft prompt."""
    prompts = model.prompts.items()
    return {name: digest(fingerprint, prompt.numbers) for name, prompt in prompts}
