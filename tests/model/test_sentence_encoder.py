"""A pretrained text encoder: frozen, each text is read once and kept; with LoRA, once a batch, with gradients."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
import torch
from conftest import WORDS, random_profiles
from test_backbone import QUERIES, config_of, folder_of
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from qanchor.config import Lora
from qanchor.errors import ModelError
from qanchor.inference.engine import QAnchor
from qanchor.model import backbone as backbones
from qanchor.model import persistence, sentence_encoder
from qanchor.model.batch import collate
from qanchor.model.sentence_encoder import SentenceEncoder, TextRows
from qanchor.model.text_encoder import load_text_encoder
from qanchor.model.vectors import VectorTable

TEXTS = [f"{word} at {other}" for word in WORDS for other in ("noon", "the corner of a street by the sea")]
LORA = Lora(rank=4, alpha=8)


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch):
    monkeypatch.setattr(backbones, "compute_dtype", lambda: torch.float32)
    monkeypatch.setattr(sentence_encoder, "compute_dtype", lambda: torch.float32)


@pytest.fixture
def folder(tmp_path) -> str:
    """A tiny random BERT (with its usual dropout) whose padding is not neutral."""
    torch.manual_seed(0)
    tokenizer = backbones.train_tokenizer(TEXTS, 300)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **size, initializer_range=0.3))
    model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Every text that any encoder has read, apart from the modalities' names."""
    seen: list[str] = []
    pooled = SentenceEncoder._pooled

    def watched(self: SentenceEncoder, texts: list[str]) -> torch.Tensor:
        seen.extend(text for text in texts if text not in ("bill", "mini"))
        return pooled(self, texts)

    monkeypatch.setattr(SentenceEncoder, "_pooled", watched)
    return seen


@torch.no_grad()
def alone(folder: str, text: str, pooling: str = "mean") -> torch.Tensor:
    """One text by the library, without padding: the mean of its tokens or the first of them, at unit length."""
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    state_LW = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    return torch.nn.functional.normalize(state_LW.mean(0) if pooling == "mean" else state_LW[0], dim=0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_rows_of_the_table_are_each_text_read_alone(folder, pooling):
    if pooling == "cls":
        set_pooling(folder, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    encoder = SentenceEncoder(folder).train()
    table = encoder.index(TEXTS)
    vector_TW = encoder(table, torch.arange(len(TEXTS)))
    for t in (0, 1, 9, len(TEXTS) - 1):
        torch.testing.assert_close(vector_TW[t], alone(folder, TEXTS[t], pooling), atol=2e-3, rtol=0)
    assert isinstance(table, VectorTable)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def set_pooling(folder: str, **modes: bool) -> None:
    from pathlib import Path

    place = Path(folder) / "1_Pooling"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes, "include_prompt": True}))


def test_a_pooling_that_we_do_not_know_is_refused(folder):
    set_pooling(folder, pooling_mode_lasttoken=True, pooling_mode_mean_tokens=False)
    with pytest.raises(ModelError, match=r"pooled by .*lasttoken.*expected mean or cls"):
        SentenceEncoder(folder)


def test_frozen_each_distinct_text_is_read_once_over_all_runs(folder, tmp_path, read):
    for _ in range(2):
        encoder = load_text_encoder(folder, None, tmp_path / "vectors").train()
        encoder.index([*TEXTS, *TEXTS])
        encoder.index(TEXTS[5:])
    assert sorted(read) == sorted(TEXTS)


def test_other_weights_or_another_pooling_are_other_vectors(folder, tmp_path, read):
    SentenceEncoder(folder, vectors=tmp_path / "vectors").index(TEXTS)
    other = SentenceEncoder(folder, vectors=tmp_path / "vectors")
    with torch.no_grad():
        next(other.model.parameters())[0, 0] += 1
    other.index(TEXTS)
    assert len(read) == 2 * len(TEXTS)
    set_pooling(folder, pooling_mode_cls_token=True)
    SentenceEncoder(folder, vectors=tmp_path / "vectors").index(TEXTS)
    assert len(read) == 3 * len(TEXTS)


def test_without_a_place_the_vectors_go_with_the_encoder(folder):
    encoder = SentenceEncoder(folder)
    encoder.index(TEXTS)
    place = encoder.vectors
    assert place.is_dir()
    del encoder
    gc.collect()
    assert not place.exists()


def test_with_lora_each_distinct_text_of_a_batch_is_read_once_with_gradients(folder, read):
    encoder = SentenceEncoder(folder, LORA).train()
    indexed = encoder.index([*TEXTS, *TEXTS])
    assert isinstance(indexed, TextRows)
    assert read == []
    rows = torch.tensor([3, 0, 3, 3 + len(TEXTS), 7])
    vector_RW = encoder(indexed, rows)
    assert sorted(read) == sorted({TEXTS[0], TEXTS[3], TEXTS[7]})
    torch.testing.assert_close(vector_RW[1], alone(folder, TEXTS[0]), atol=1e-5, rtol=0)
    assert torch.equal(vector_RW[0], vector_RW[2])
    assert torch.equal(vector_RW[0], vector_RW[3])
    torch.autograd.backward(vector_RW[:, 0].sum())
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            assert parameter.grad.abs().sum() > 0, name
        assert parameter.requires_grad == ("lora_" in name), name


def test_a_prefix_gives_gradients_to_the_lora_of_its_text_encoder(folder, tmp_path, read):
    backbone, profiles = folder_of("llama", tmp_path / "decoder"), random_profiles()
    config = config_of(backbone=backbone, text_encoder=folder, text_lora=LORA.model_dump())
    towers = persistence.build(config, QUERIES).train()
    batch = collate(profiles, np.arange(6), persistence.kept_events(towers))
    prefix = towers.prefix(batch, towers.text_encoder.index(profiles.texts.described))
    assert sorted(read) == sorted({profiles.texts.described[t] for t in batch.text_U})
    torch.autograd.backward(prefix.token_BPD.square().sum())
    lora = [p for name, p in towers.text_encoder.named_parameters() if "lora_B" in name]
    assert lora
    assert all(parameter.grad.abs().sum() > 0 for parameter in lora)


def test_once_trained_lora_is_read_once_and_kept_like_a_frozen_encoder(folder, read):
    encoder = SentenceEncoder(folder, LORA).train()
    rows, indexed = torch.arange(len(TEXTS)), encoder.index(TEXTS)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    learned = encoder(indexed, rows).detach()
    table = encoder.eval().index(TEXTS)
    before = len(read)
    torch.testing.assert_close(encoder(table, rows), learned, atol=2e-3, rtol=0)
    assert len(read) == before
    assert not torch.allclose(learned[0], alone(folder, TEXTS[0]), atol=1e-2)
    with pytest.raises(ModelError, match=r"index them again after `.train\(\)`"):
        encoder.train()(table, rows)


@pytest.mark.parametrize("lora", [None, LORA.model_dump()])
def test_a_model_saved_with_its_text_encoder_gives_the_same_embeddings(folder, tmp_path, read, lora):
    backbone, profiles = folder_of("llama", tmp_path / "decoder"), random_profiles()
    towers = persistence.build(config_of(backbone=backbone, text_encoder=folder, text_lora=lora), QUERIES)
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    model = QAnchor(towers)
    model.save_pretrained(tmp_path / "saved")
    first = model.embed(profiles, queries=QUERIES)
    again = persistence.load(tmp_path / "saved", tmp_path / "vectors")
    np.testing.assert_array_equal(QAnchor(again).embed(profiles, queries=QUERIES), first)
    assert len(read) == 2 * len(set(profiles.texts.described))
    assert len(list((tmp_path / "vectors").iterdir())) == 1
