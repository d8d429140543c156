"""Text embeddings of tiny random checkpoints: the paper's four by the ways they are asked, and any folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_profiles
from transformers import (
    BertConfig,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3Model,
)

from qanchor.baselines import texts
from qanchor.baselines.texts import PAPER, TASK, Checkpoint, TextEmbedding, checkpoint
from qanchor.config import parse
from qanchor.errors import ModelError
from qanchor.model.backbone import train_tokenizer

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
SOURCES = [{"path": "x", "user": "u", "time": "t", "modality": m, "text": "{x}"} for m in ("bill", "mini")]
WINDOWS = {"train": ["2024-01-01"], "validation": ["2024-01-01"], "test": ["2024-06-01"]}
CONFIG = parse({"name": "x", "sources": SOURCES, "windows": WINDOWS}, Path())
MODELS = {
    "qwen2.5-0.5b": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=1)),
    "qwen3-embedding-0.6b": lambda: Qwen3Model(Qwen3Config(**GROUPED)),
    "llama-embed-nemotron-8b": lambda: LlamaModel(LlamaConfig(**GROUPED)),
    "kalm-gemma3-12b": lambda: Gemma3TextModel(Gemma3TextConfig(**GROUPED)),
    "bert": lambda: BertModel(BertConfig(**SIZES)),
}


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    monkeypatch.setattr(texts, "compute_dtype", lambda: torch.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["what a user did: coffee, hotel, concert, 3 times, 12 days ago; events, shown"], 300)
    for name, make in MODELS.items():
        torch.manual_seed(0)
        make().save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    settings = json.loads((root / "llama-embed-nemotron-8b" / "config.json").read_text())
    own_code = {"model_type": "llama_bidirec", "auto_map": {"AutoModel": "code.LlamaBidirectionalModel"}}
    (root / "llama-embed-nemotron-8b" / "config.json").write_text(json.dumps(settings | own_code))
    return {name: root / name for name in MODELS}


def fitted(chosen: Checkpoint) -> TextEmbedding:
    past = random_profiles(2)
    return TextEmbedding(CONFIG, chosen).fit(past, past)


@pytest.mark.parametrize("name", [*PAPER, "bert"])
def test_each_user_is_read_alone_whatever_the_batch(folders, name):
    chosen = replace(PAPER[name], name=str(folders[name])) if name in PAPER else checkpoint(str(folders[name]))
    reader, past = fitted(chosen), random_profiles(9)
    whole = reader.embed(past)
    assert whole.shape == (9, 32)
    assert np.isfinite(whole).all()
    assert np.abs(whole[1] - whole[2]).max() > 1e-3
    for row in (0, 4, 8):
        assert np.allclose(reader.embed(past.take(np.array([row]))), whole[row], atol=1e-4)


def test_pooling_is_what_the_plain_model_says(folders):
    text = "hotel 3 times"
    for name, pooling in (("qwen3-embedding-0.6b", "last"), ("qwen2.5-0.5b", "mean")):
        reader = fitted(replace(PAPER[name], name=str(folders[name])))
        tokens = reader.tokenizer([text], return_tensors="pt")
        state = reader.model(input_ids=tokens["input_ids"]).last_hidden_state[0]
        expected = state[-1] if pooling == "last" else state.mean(0)
        found = reader._read([text, "a much longer text about a concert, and a hotel"])[0]
        assert torch.allclose(found, expected, atol=1e-4)


def test_the_bidirectional_llama_lets_first_words_see_the_last(folders):
    chosen = replace(PAPER["llama-embed-nemotron-8b"], name=str(folders["llama-embed-nemotron-8b"]), pooling="cls")
    first, other = fitted(chosen)._read(["coffee hotel", "coffee events"])
    assert (first - other).abs().max() > 1e-4
    with pytest.raises(ModelError, match="llama_bidirec"):  # its own code is never run
        fitted(replace(chosen, bidirectional=False))


def test_models_that_take_an_instruction_are_given_it(folders):
    reader = fitted(replace(PAPER["qwen3-embedding-0.6b"], name=str(folders["qwen3-embedding-0.6b"])))
    (told,) = reader._told(random_profiles(2).take(np.array([1])))
    assert told.startswith(f"Instruct: {TASK}\nQuery:[bill]")
    plain = fitted(replace(PAPER["qwen2.5-0.5b"], name=str(folders["qwen2.5-0.5b"])))
    assert next(plain._told(random_profiles(2))).startswith("[bill]")


def test_a_folder_says_how_it_is_pooled(folders, tmp_path):
    assert checkpoint("kalm-gemma3-12b").pooling == "last"
    assert checkpoint(str(tmp_path)).pooling == "mean"
    (tmp_path / "1_Pooling").mkdir()
    for mode, pooling in (("pooling_mode_cls_token", "cls"), ("pooling_mode_lasttoken", "last")):
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({mode: True, "pooling_mode_max_tokens": False}))
        assert checkpoint(str(tmp_path)).pooling == pooling
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError, match="max_tokens"):
        checkpoint(str(tmp_path))


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="text embedding model"):
        fitted(Checkpoint(str(tmp_path), "mean"))
