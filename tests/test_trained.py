"""Ways to tune share a pretraining by links, and begin anew when it has changed."""

from __future__ import annotations

from pathlib import Path

from qanchor.trained import _borrow, _gradient


def pretraining(folder: Path, digest: str) -> Path:
    for name in ("stages", "model", "vectors"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("ingest", "useru", "pretrain"):
        (folder / "stages" / f"{name}.json").write_text(digest)
    (folder / "model" / "model.safetensors").write_text(digest)
    return folder


def test_a_tuning_reads_the_pretraining_and_keeps_its_own(tmp_path: Path) -> None:
    first, own = pretraining(tmp_path / "first", "a"), tmp_path / "first" / "tuned" / "x"
    _borrow(first, own)
    (own / "model" / "prompts").mkdir()
    (own / "model" / "prompts" / "login.safetensors").write_text("tuned")
    assert (own / "model" / "model.safetensors").read_text() == "a"
    assert not (first / "model" / "prompts").exists()
    _borrow(first, own)
    assert (own / "model" / "prompts" / "login.safetensors").exists()
    _borrow(pretraining(first, "b"), own)
    assert not (own / "model" / "prompts").exists()
    assert (own / "model" / "model.safetensors").read_text() == "b"


def test_no_log_no_gradient(tmp_path: Path) -> None:
    assert _gradient(tmp_path / "metrics.jsonl") == {}
