"""Probes: from a scenario's embedding to the probability that its question is answered by yes.

Fitted on what the evaluation has: the tuned embeddings and labels of training users, the penalty chosen by validation
users. A probe belongs to the model that made its embeddings.

Shapes: N rows, O dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from qanchor import embeddings
from qanchor.errors import DataError, ModelError
from qanchor.events import atomic
from qanchor.inference.engine import QAnchor
from qanchor.inference.makers import makers
from qanchor.model import persistence
from qanchor.pipeline import Project
from qanchor.probe.metrics import auc

PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of the penalty that are tried."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """A logistic regression, standardisation folded into it: probability = sigmoid(x . weight + bias)."""

    scenario: str
    model: str
    """Whose embeddings it reads: a hash of the model's fingerprint and the scenario's soft prompt."""
    auc: float
    """On validation users."""
    rate: float
    """Share of yes among the training users, who are as they come: probabilities are meant for users like them."""
    weight_O: Floats
    bias: float

    def __call__(self, embedding_NO: Floats) -> npt.NDArray[np.float64]:
        """[N] probabilities."""
        return 1 / (1 + np.exp(-(embedding_NO.astype(np.float64) @ self.weight_O + self.bias)))

    def save(self, path: Path) -> None:
        about = {"scenario": self.scenario, "model": self.model, "auc": self.auc, "rate": self.rate, "bias": self.bias}
        atomic.write(path, save({"weight": self.weight_O}, {"qanchor": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Raises ModelError: not a probe."""
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["qanchor"])
                return cls(weight_O=file.get_tensor("weight"), **about)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path} is no probe ({error}): fit it again with `qanchor probes`") from None


def fit_probes(project: Project) -> dict[str, Probe | str]:
    """A probe for every scenario of the config, saved in the run's `probes/`; or why one has none.

    Raises:
        DataError: the run was not evaluated, or by another model than the one that lies there now.
    """
    path = project.storage / "embeddings" / "tuned.parquet"
    if not path.exists():
        raise DataError(f"no {path}: run `qanchor evaluate` first, probes are fitted on its embeddings and labels")
    model = QAnchor.from_pretrained(project.out / "model", project.out / "vectors")
    made_by = makers(model, persistence.fingerprint(model.towers))
    written = embeddings.made_by(path, project.covers)
    if foreign := [name for name in project.config.scenarios if written.get(name) != made_by.get(name)]:
        raise DataError(
            f"{path}: {', '.join(foreign)} not by the model and soft prompts in {project.out / 'model'}, whose "
            "embeddings a probe reads: run `qanchor evaluate` again; should it say `embed: up to date`, remove "
            f"{project.out / 'stages' / 'embed.json'} first"
        )
    found: dict[str, Probe | str] = {}
    for name, y in project.labels.items():
        X = embeddings.read(path, name, project.covers)
        rows = {split: _labelled(project.rows(split), y) for split in ("train", "validation")}
        if name not in made_by:
            found[name] = "the model has no soft prompt for it"
            continue
        lacking = [split for split, of in rows.items() if len(np.unique(y[of])) < 2]
        if lacking:
            found[name] = f"{lacking[0]} users with a label are all of one class"
            continue
        found[name] = fit(
            name, made_by[name], (X[rows["train"]], y[rows["train"]]), (X[rows["validation"]], y[rows["validation"]])
        )
    for name, probe in found.items():
        if isinstance(probe, Probe):
            probe.save(project.out / "probes" / f"{name}.safetensors")
    return found


def fit(name: str, model: str, train: tuple[Floats, Floats], validation: tuple[Floats, Floats]) -> Probe:
    """The probe whose penalty ranks the validation rows best; (embeddings [N, O], labels [N] of 0 and 1) each."""
    X, y = train
    mean, deviation = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)
    best: Probe | None = None
    for penalty in PENALTIES:
        with threadpool_limits(1):
            found = LogisticRegression(C=penalty, max_iter=1000).fit((X - mean) * scale, y)
        weight_O = (found.coef_[0] * scale).astype(np.float32)
        bias = float(found.intercept_[0] - mean @ (found.coef_[0] * scale))
        score = float(auc(validation[1], validation[0] @ weight_O))
        if best is None or score > best.auc:
            best = Probe(name, model, score, float(y.mean()), weight_O, bias)
    assert best
    return best


def load_probes(folder: Path, made_by: Mapping[str, str]) -> dict[str, Probe]:
    """The probes of a run that belong to these makers."""
    found = (Probe.load(path) for path in sorted(folder.glob("*.safetensors")))
    return {probe.scenario: probe for probe in found if made_by.get(probe.scenario) == probe.model}


def _labelled(rows: npt.NDArray[np.int64], y: Floats) -> npt.NDArray[np.int64]:
    own: npt.NDArray[np.int64] = rows[np.isfinite(y[rows])]
    return own
