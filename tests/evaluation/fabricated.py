"""A bench whose units are made up: no model is trained, and which row is better is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qanchor.evaluation.bench import Bench, Field, Method, play
from qanchor.evaluation.studies import OURS, STUDIES, row_of

MODALITIES = ("bill", "mini", "search")


def field(names: Sequence[str], rows: int = 300) -> tuple[Field, np.ndarray]:
    """The rows and labels, and the truth [rows] behind the labels."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=rows).astype(np.float32)
    labels = {name: (truth + rng.normal(size=rows) > 0.2 * k).astype(np.float32) for k, name in enumerate(names)}
    split = np.array(["train", "validation", "test"])[np.arange(rows) * 3 // rows]
    return Field("toy", split, np.array([f"u{n}" for n in range(rows)]), labels, "digest"), truth


def methods(
    names: Sequence[str], truth: np.ndarray, baselines: Mapping[str, float], seen: list[str]
) -> dict[str, Method]:
    """Baselines by their noise, our own rows, and every point of every study; `seen` notes what is trained."""

    def noisy(noise: float, seed: int) -> np.ndarray:
        rng = np.random.default_rng((seed, int(1000 * noise)))
        other = rng.normal(size=(len(truth), 5))
        return np.column_stack([truth + noise * rng.normal(size=len(truth)), other]).astype(np.float32)

    def baseline(name: str, noise: float) -> Callable[..., Any]:
        def embed(_: Any, seed: int) -> dict[str, np.ndarray]:
            seen.append(name)
            return {name: noisy(noise, seed)}

        return embed

    def own(name: str, rows: Mapping[str, float], gradient: float = 1.0) -> Method:
        def embed(_: Any, seed: int) -> dict[str, dict[str, np.ndarray]]:
            seen.append(name)
            return {row: {n: noisy(noise, seed) for n in names} for row, noise in rows.items()}

        def measure(_: Any, seed: int) -> dict[str, Any]:
            base, tuned = (dict(zip(MODALITIES, share, strict=True)) for share in ((0.5, 0.3, 0.2), (0.4, 0.2, 0.4)))
            norms = [gradient * float(np.exp(-step / 40)) for step in range(120)]
            return {
                "attention": {"base": dict.fromkeys(names, base), "tuned": dict.fromkeys(names, tuned)},
                "gradient": {"norm": norms, "align": 80, "mean": gradient / 1e3, "max": gradient / 10},
            }

        return Method(embed, config=[name], ours=True, measure=measure if len(rows) > 1 else None)

    found = {name: Method(baseline(name, noise), kept=name != "counts") for name, noise in baselines.items()}
    found["untrained"] = own("untrained", {"untrained": 0.8, "w/o pretraining": 0.7})
    found[OURS] = own(OURS, {"base": 0.6, "tuned": 0.3})
    for study in STUDIES:
        for place, (name, point) in enumerate(zip(named(study), STUDIES[study].points, strict=True)):
            rows = {row_of(name, kind): 1.2 - 0.2 * place for kind in STUDIES[study].kinds}
            found.setdefault(name, own(name, rows, 256 / point.x))
    return found


DEFAULTS = {"data": "100%", "model": "256 x 1", "prompts": "6", "steps": "500"}


def named(study: str) -> list[str]:
    """The method of each point of a study."""
    points = STUDIES[study].points
    return [OURS if point.label == DEFAULTS[study] else f"{study} {point.label}" for point in points]


def finished(
    folder: Path, names: Sequence[str], baselines: Mapping[str, float], played: Sequence[str], rows: int, seeds: int
) -> Bench:
    """A bench in which the units of `played` are finished."""
    of, truth = field(names, rows)
    bench = Bench(folder, of, methods(names, truth, baselines, []))
    list(play(bench, played, seeds, lambda units: ((unit, bench.run(unit)) for unit in units)))
    return bench
