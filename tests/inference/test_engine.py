"""The engine's three paths agree, batches do not matter, and a saved model is the model before."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import random_profiles, tiny_towers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel

from qanchor.config import Lora, Model, parse
from qanchor.errors import ModelError
from qanchor.events.profiles import Texts
from qanchor.inference import engine
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.backbone import train_tokenizer
from qanchor.model.prompts import SoftPrompt

QUERIES = ["will this user buy coffee soon?", "concert", "rent and hotel"]
BF16 = 0.02
"""Where the machine computes in bf16, paths of other shapes round differently."""


def tuned(towers, name="coffee") -> dict[str, SoftPrompt]:
    prompt = towers.prompt.detach() + 0.3
    return {name: SoftPrompt(name, QUERIES[0], prompt, torch.zeros(2, 16), persistence.fingerprint(towers))}


@pytest.mark.parametrize("hybrid", [False, True])
def test_packed_equals_cached_equals_plain(towers, profiles, hybrid):
    towers.hybrid = hybrid
    model = QAnchor(towers, tuned(towers))
    packed, cached, plain = (model.embed(profiles, ["coffee"], QUERIES, path=p) for p in ("packed", "cached", "plain"))
    assert packed.shape == (12, 4, 16)
    np.testing.assert_allclose(packed, cached, atol=BF16)
    np.testing.assert_allclose(packed, plain, atol=BF16)
    np.testing.assert_allclose(np.linalg.norm(packed, axis=-1), 1, atol=1e-5)


def test_read_once_and_asked_later_equals_embedded(towers, monkeypatch):
    profiles, model = random_profiles(40, mean=30), QAnchor(towers, tuned(towers))
    read = model.read(profiles)
    monkeypatch.setitem(engine.BATCH_TOKENS, "cpu", 600)  # more than one batch
    np.testing.assert_allclose(model.ask(read, ["coffee"]), model.embed(profiles, ["coffee"]), atol=BF16)
    some = [read[n] for n in (7, 0, 31)]
    again = model.embed(profiles.take(np.array([7, 0, 31])), queries=QUERIES)
    np.testing.assert_allclose(model.ask(some, queries=QUERIES), again, atol=BF16)
    with pytest.raises(ModelError, match="nothing to embed for"):
        model.ask(read)


def test_the_token_budget_changes_nothing_but_memory(towers, monkeypatch):
    profiles, model = random_profiles(60, mean=30), QAnchor(towers)
    whole = model.embed(profiles, queries=QUERIES)
    monkeypatch.setattr(engine, "BATCH_TOKENS", {"cpu": 2_000})
    np.testing.assert_allclose(model.embed(profiles, queries=QUERIES), whole, atol=BF16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_users_embedding_does_not_depend_on_its_company_bit_for_bit(data, dtype):
    """Any of them, in any order, also one alone, and with a text table of other rows: refreshing by parts needs it."""
    towers = tiny_towers()
    towers.backbone.to(dtype)
    model, counts = QAnchor(towers), [0, 1, 2, 3, 7, 8, 9, 20, 21, 60, 300, *range(100, 130)]
    profiles = random_profiles(len(counts), seed=data.draw(st.integers(0, 99)), mean=np.array(counts))
    rows = np.array(data.draw(st.permutations(range(len(counts)))))[: data.draw(st.integers(1, len(counts)))]
    some = profiles.take(rows)
    table = profiles.texts
    first = Texts(np.zeros(1, np.uint64), ["bill"], ["never"], ["seen"])
    columns = [[*getattr(first, c), *getattr(table, c)] for c in ("modality", "category", "text")]
    shifted = Texts(np.concatenate([first.ids, table.ids]), *columns)
    other = dataclasses.replace(some, text=some.text + 1, texts=shifted)
    whole = model.embed(profiles, queries=QUERIES)
    assert np.array_equal(model.embed(other, queries=QUERIES), whole[rows])


def test_saved_and_loaded_equals_before(towers, profiles, tmp_path):
    model = QAnchor(towers, tuned(towers))
    model.save_pretrained(tmp_path, "# card")
    again = QAnchor.from_pretrained(tmp_path)
    assert np.array_equal(again.embed(profiles, ["coffee"], QUERIES), model.embed(profiles, ["coffee"], QUERIES))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".pth"}]


def test_a_prompt_of_another_model_is_refused(towers, tmp_path):
    QAnchor(towers, tuned(towers)).save_pretrained(tmp_path)
    other = tiny_towers(seed=1)
    next(iter(tuned(other).values())).save(tmp_path / "prompts" / "coffee.safetensors")
    with pytest.raises(ModelError, match=r"was tuned on model .* tune the scenario again"):
        QAnchor.from_pretrained(tmp_path)


def test_unknown_scenarios_and_modalities_are_refused(towers, profiles):
    with pytest.raises(ModelError, match="no soft prompt for 'rent'; tuned are: coffee"):
        QAnchor(towers, tuned(towers)).embed(profiles, ["rent"])
    with pytest.raises(ModelError, match="an adapter for each of bill, mini, got bill, spm"):
        QAnchor(tiny_towers(named=False)).embed(random_profiles(modalities=("bill", "spm")), queries=QUERIES)
    with pytest.raises(ModelError, match="holds no model"):
        QAnchor.from_pretrained("/nowhere")


def test_modalities_are_known_by_their_names(towers, profiles):
    model = QAnchor(towers)
    before = model.embed(profiles, queries=QUERIES)
    renamed = dataclasses.replace(profiles, modalities=("orders", "clicks"))
    other = model.embed(renamed, queries=QUERIES)
    assert other.shape == before.shape
    assert abs(other - before).max() > 1e-4
    assert np.array_equal(model.embed(profiles, queries=QUERIES), before)
    three = random_profiles(modalities=("bill", "mini", "spm"))
    assert model.embed(three, queries=QUERIES).shape[1:] == before.shape[1:]


def hugging_face_folders(tmp_path):
    """A tiny random decoder and a tiny random sentence encoder, saved as Hugging Face folders."""
    tokenizer = train_tokenizer(QUERIES, 300)
    size = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    decoder = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", num_attention_heads=4, **size))
    encoder = BertModel(BertConfig(num_attention_heads=4, **size))
    for name, model in (("decoder", decoder), ("encoder", encoder)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return str(tmp_path / "decoder"), str(tmp_path / "encoder")


def test_hugging_face_decoder_and_sentence_encoder_by_folder(tmp_path, profiles):
    """LoRA on a pretrained decoder: trained parts are saved, the base model is not, and loading restores all."""
    decoder, encoder = hugging_face_folders(tmp_path)
    model = Model(backbone=decoder, text_encoder=encoder, dim=16, lora=Lora(rank=4, alpha=8))
    source = {"path": "x.csv", "user": "u", "time": "t", "text": "{a}"}
    config = parse(
        {
            "name": "tiny",
            "sources": [{**source, "modality": m} for m in ("bill", "mini")],
            "windows": {"train": ["2025-01-01"], "validation": ["2025-01-01"], "test": ["2025-03-01"]},
            "model": model.model_dump(),
        },
        tmp_path,
    )
    torch.manual_seed(0)
    towers = persistence.build(config, QUERIES)
    trained = persistence.weights(towers)
    assert any("lora_A" in name for name in trained)
    assert not any("embed_tokens" in name or "text_encoder" in name for name in trained)
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
    model = QAnchor(towers)
    model.save_pretrained(tmp_path / "saved")
    again = QAnchor.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(model.embed(profiles, queries=QUERIES), again.embed(profiles, queries=QUERIES))


def test_a_backbone_that_is_not_there_is_refused_with_the_remedy(tmp_path):
    from qanchor.model.backbone import pretrained_backbone
    from qanchor.model.text_encoder import load_text_encoder

    with pytest.raises(ModelError, match=r"(?s)cannot be loaded.*give `embedded`"):
        pretrained_backbone(str(tmp_path), Model())
    with pytest.raises(ModelError, match=r"(?s)cannot be loaded.*give `embedded`"):
        load_text_encoder(str(tmp_path))
