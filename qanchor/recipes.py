"""Recipes: named defaults of `model` and `training`, which a project's own YAML overrides key by key.

What of them is the paper's and what is ours stands in docs/training.md, with reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Keys = Mapping[str, Any]


def _paper(backbone: str) -> Keys:
    """Section 4 on one backbone: 2,048 pairs a step over 50,000 steps."""
    return {
        "model": {
            "backbone": backbone,
            "lora": {"rank": 64, "alpha": 32},
            "text_encoder": "thenlper/gte-base",
            "dim": 128,
            "prompt_tokens": 6,
            "anchor": "constant",
        },
        "training": {
            "pretrain": {
                "align_steps": 0,
                "steps": 50_000,
                "batch": 512,
                "pairs": 4,
                "lr": 2e-4,
                "temperature": 0.07,
                "margin": 0.1,
                "mask": "eq5",
                "mask_after": 0.02,
                "ntp": 1.0,
                "chunk": 8192,
                "validate_every": 500,
            },
            "tune": {"steps": 500},
        },
    }


RECIPES: Mapping[str, Keys] = {
    "paper-0.5b": _paper("Qwen/Qwen2.5-0.5B-Instruct"),
    "paper-1.5b": _paper("Qwen/Qwen2.5-1.5B-Instruct"),
    "paper-3b": _paper("Qwen/Qwen2.5-3B-Instruct"),
    "smollm2-135m": {
        "model": {
            "backbone": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "lora": {"rank": 16, "alpha": 32},
            "anchor": "constant",
        },
        "training": {
            "pretrain": {
                "align_steps": 0,
                "steps": 300,
                "batch": 16,
                "pairs": 4,
                "lr": 1e-3,
                "mask_after": 0.3,
                "validate_every": 50,
            },
        },
    },
    "cpu-small": {},  # what the classes of config.py say
}


def over(own: Keys, defaults: Keys) -> dict[str, Any]:
    """`own` with what it leaves out taken from `defaults`, at every depth; an own `null` stays."""
    merged = {**defaults, **own}
    for key in own.keys() & defaults.keys():
        if isinstance(own[key], Mapping) and isinstance(defaults[key], Mapping):
            merged[key] = over(own[key], defaults[key])
    return merged
