"""The weights that ship: they load by name, fit logs of any modalities, and training can start from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import random_profiles

from qanchor import QAnchor, config
from qanchor.errors import ModelError
from qanchor.model import persistence

MODALITIES = ("orders", "clicks", "calls")


def project(**model: object) -> config.Config:
    source = {"path": "x.csv", "user": "u", "time": "t", "text": "{x}"}
    windows = {"train": ["2024-04-01"], "validation": ["2024-04-01"], "test": ["2024-06-01"]}
    data = {"name": "own", "sources": [{**source, "modality": name} for name in MODALITIES], "windows": windows}
    return config.parse({**data, "modalities": {"clicks": {"events": 5}}, "model": model}, Path())


def test_they_load_by_name_and_fit_any_logs():
    model = QAnchor.from_pretrained("qanchor-small")
    queries = ["Will the user buy coffee?", "Will the user book a concert?"]
    profiles = random_profiles(modalities=MODALITIES)
    embedding_NGO = model.embed(profiles, queries=queries)
    assert embedding_NGO.shape == (len(profiles), 2, 128)
    assert np.allclose(np.linalg.norm(embedding_NGO, axis=-1), 1, atol=1e-3)
    assert abs(embedding_NGO[:, 0] - embedding_NGO[:, 1]).max() > 0.1
    assert abs(embedding_NGO[0] - embedding_NGO[1]).max() > 0.01


def test_they_are_small_and_tell_where_they_are_from():
    folder = persistence.find("qanchor-small")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 16e6
    assert "python weights/make.py" in (folder / "README.md").read_text()
    assert (folder / "log.jsonl").stat().st_size > 0
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".jsonl", ".md", ".safetensors"}


def test_training_starts_from_them():
    profiles = random_profiles(modalities=MODALITIES)
    towers = persistence.begin(project(start="qanchor-small"), ["not needed"])
    assert persistence.kept_events(towers).tolist() == [24, 5, 24]
    shipped = QAnchor.from_pretrained("qanchor-small")
    before = shipped.embed(random_profiles(modalities=("bill",)), queries=["coffee?"])
    assert np.array_equal(QAnchor(towers).embed(random_profiles(modalities=("bill",)), queries=["coffee?"]), before)
    scratch = persistence.begin(project(), ["not needed", "will the user"])
    assert not np.allclose(
        QAnchor(scratch).embed(profiles, queries=["coffee?"]), shipped.embed(profiles, queries=["coffee?"]), atol=0.01
    )


@pytest.mark.parametrize("model", [{"hidden": 128}, {"layers": 2}, {"anchor": "constant"}])
def test_a_start_of_another_size_is_refused(model: dict[str, object]):
    with pytest.raises(ModelError, match="trains from scratch"):
        persistence.begin(project(start="qanchor-small", **model), ["will the user"])
