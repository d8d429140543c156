"""Any decoder-only Hugging Face model by folder: read as the library reads it, trained by LoRA or whole, saved."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_same_gradients, random_profiles
from transformers import AutoConfig, AutoModelForCausalLM

from qanchor.config import Config, Model, parse
from qanchor.errors import ModelError
from qanchor.inference.engine import QAnchor
from qanchor.model import backbone as backbones
from qanchor.model import body, losses, persistence
from qanchor.model.batch import collate
from qanchor.model.towers import Towers

QUERIES = ["will this user buy coffee soon?", "concert", "what about the rent, and a much longer question about hotel"]
ANSWERS = ["three times, at the coffee shop", "nothing"]
SIZE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
END = slice(-1, None)
"""Of a suffix without an answer: `<USER_EMB>`."""
FAMILIES = {
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "llama": {"num_key_value_heads": 4, "tie_word_embeddings": False},
    "smollm2": {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 12},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 5,
        "attn_logit_softcapping": 0.5,
        "query_pre_attn_scalar": 9,
    },
    "gemma3_text": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch):
    monkeypatch.setattr(backbones, "compute_dtype", lambda: torch.float32)


def folder_of(family: str, folder) -> str:
    """A tiny random checkpoint of a family, as `save_pretrained` leaves it."""
    torch.manual_seed(0)
    tokenizer = backbones.train_tokenizer([*QUERIES, *ANSWERS], 300)
    kind = "llama" if family == "smollm2" else family
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **(SIZE | FAMILIES.get(family, {})))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def config_of(**model) -> Config:
    source = {"path": "x.csv", "user": "u", "time": "t", "text": "{a}"}
    return parse(
        {
            "name": "tiny",
            "sources": [{**source, "modality": m} for m in ("bill", "mini")],
            "modalities": {"bill": {"events": 8}, "mini": {"events": 6}},
            "windows": {"train": ["2025-01-01"], "validation": ["2025-01-01"], "test": ["2025-03-01"]},
            "model": {"dim": 16, "prompt_tokens": 3, **model},
        },
        Path(),
    )


def towers_of(family: str, folder, **model) -> Towers:
    """Loaded by folder, with LoRA that does something."""
    torch.manual_seed(0)
    towers = persistence.build(
        config_of(backbone=folder_of(family, folder), lora={"rank": 4, "alpha": 8}, **model), QUERIES
    )
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return towers.eval()


def prefix_of(towers: Towers, rows: np.ndarray):
    profiles = random_profiles()
    return towers.prefix(collate(profiles, rows, np.array([8, 6])), towers.text_encoder.index(profiles.texts.text))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_one_pass_equals_cached_equals_the_library_reading_each_sequence_alone(family, tmp_path):
    """Grouped and tied heads, biases, query norms, sliding windows, capped scores, scaled embeddings: as trained."""
    towers = towers_of(family, tmp_path)
    prefix, queries = prefix_of(towers, np.arange(5)), towers.tokens(QUERIES, "left")
    query_BN = torch.arange(3).expand(5, 3)
    suffixes, _ = towers.suffixes(prefix, queries, query_BN)
    packed = towers.read(prefix, suffixes, END)[:, :, 0]
    cached = towers.read(prefix, suffixes, END, towers.keys_values(prefix))[:, :, 0]
    suffix_BNSD, mask_BNS = suffixes.row_BLD.view(5, 3, -1, towers.width), suffixes.mask_BNS
    torch.testing.assert_close(cached, packed, atol=2e-5, rtol=1e-5)
    towers.backbone.set_attn_implementation("eager")
    for b in range(5):
        for n in range(3):
            alone = torch.cat([prefix.token_BPD[b][prefix.mask_BP[b]], suffix_BNSD[b, n][mask_BNS[b, n]]])
            state = towers.backbone.get_decoder()(inputs_embeds=alone[None], use_cache=False).last_hidden_state[0, -1]
            torch.testing.assert_close(packed[b, n], state, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_sliding_window_and_capped_scores_change_what_is_read(tmp_path):
    """Else the test above would pass with both ignored on either side."""
    towers = towers_of("gemma2", tmp_path)
    prefix, queries = prefix_of(towers, np.arange(3)), towers.tokens(QUERIES, "left")
    suffixes, _ = towers.suffixes(prefix, queries, torch.arange(3).expand(3, 3))
    before = towers.read(prefix, suffixes, END)
    for layer in towers.backbone.get_decoder().layers:
        assert layer.self_attn.attn_logit_softcapping
    towers.backbone.get_decoder().layers[0].self_attn.sliding_window = None
    assert not torch.allclose(towers.read(prefix, suffixes, END), before, atol=1e-3)
    towers.backbone.get_decoder().layers[0].self_attn.sliding_window = 5
    towers.backbone.get_decoder().layers[1].self_attn.attn_logit_softcapping = None
    assert not torch.allclose(towers.read(prefix, suffixes, END), before, atol=1e-3)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_last_layer_of_the_rows_that_are_read_equals_a_whole_one(family, hybrid, tmp_path, monkeypatch):
    """Outputs, keys and values, and gradients of every part, LoRA included."""
    towers = towers_of(family, tmp_path, prefix_attention="hybrid" if hybrid else "causal").train()
    queries, answers = towers.tokens(QUERIES, "left"), towers.tokens(ANSWERS, "right")
    query_BN, answer_BN = torch.arange(2).expand(4, 2), torch.tensor([[0, 1]]).expand(4, 2)

    def everything():
        prefix = prefix_of(towers, np.arange(1, 5))
        suffixes, _ = towers.suffixes(prefix, queries, query_BN, None, answers, answer_BN)
        state_BNRD = towers.read(prefix, suffixes, slice(-5, -1))
        # of keys the cosines with each other: where places are counted from is free
        layers = [(F.normalize(key, dim=-1), value) for key, value in towers.keys_values(prefix)]
        kept = [part for key, value in layers for part in (key @ key.transpose(-1, -2), value)]
        outputs = [state_BNRD, towers.answer(answers, answer_BN), towers.anchor(prefix, queries, query_BN), *kept]
        torch.autograd.backward(torch.stack([output.sin().sum() for output in outputs]).sum())
        gradients = {name: p.grad for name, p in towers.named_parameters() if p.grad is not None}
        towers.zero_grad()
        return outputs, gradients

    outputs, gradients = everything()
    monkeypatch.setattr(body, "BY_LAYER", ())
    whole_outputs, whole_gradients = everything()
    torch.testing.assert_close(outputs, whole_outputs, atol=2e-5, rtol=1e-4)
    assert_same_gradients(gradients, whole_gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_lora_and_our_own_parts_only(family, tmp_path):
    towers = towers_of(family, tmp_path).train()
    queries, answers = towers.tokens(QUERIES, "left"), towers.tokens(ANSWERS, "right")
    query_BN, answer_BN = torch.arange(2).expand(4, 2), torch.tensor([[0, 1]]).expand(4, 2)
    prefix = prefix_of(towers, np.arange(1, 5))
    suffixes, _ = towers.suffixes(prefix, queries, query_BN, None, answers, answer_BN)
    state_BN1D = towers.read(prefix, suffixes, slice(-2, -1))
    logits = towers.backbone.get_output_embeddings()(state_BN1D[:, :, 0])
    ntp = losses.next_token(logits, answer_BN, torch.ones_like(answer_BN))
    loss = (
        ntp + towers.anchor(prefix, queries, query_BN)[..., 0].sum() + towers.answer(answers, answer_BN)[..., 1].sum()
    )
    torch.autograd.backward(loss)
    for name, parameter in towers.named_parameters():
        if name.startswith("backbone.") and "lora_" not in name:
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        elif "lora_" in name or name.startswith(("hierarchy.event", "hierarchy.user.", "text_encoder.vectors")):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_gives_the_same_embeddings(family, tmp_path):
    model, profiles = QAnchor(towers_of(family, tmp_path / "base")), random_profiles()
    model.save_pretrained(tmp_path / "saved")
    again = QAnchor.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(model.embed(profiles, queries=QUERIES), again.embed(profiles, queries=QUERIES))
    stored = (tmp_path / "saved" / "model.safetensors").stat().st_size
    assert stored < 4 * sum(p.numel() for p in model.towers.parameters() if p.requires_grad) + 60_000


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_the_first_layers_trained_whole_need_no_base_model_any_more(family, tmp_path):
    folder, profiles = folder_of(family, tmp_path / "base"), random_profiles()
    towers = persistence.build(config_of(backbone=folder, first_layers=1, lora=None), QUERIES)
    (only,) = towers.backbone.get_decoder().layers
    whole = AutoModelForCausalLM.from_pretrained(folder)
    first = whole.get_decoder().layers[0].state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in only.state_dict().items())
    assert all(parameter.requires_grad for parameter in towers.backbone.parameters())
    assert not towers.seeded  # a pretrained start keeps the paper's constant `<USER_EMB>`
    with torch.no_grad():
        only.mlp.down_proj.weight.mul_(1.5)
    model = QAnchor(towers)
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(folder)
    again = QAnchor.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(model.embed(profiles, queries=QUERIES), again.embed(profiles, queries=QUERIES))


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_in_bf16_saved_and_loaded_is_the_same_too(lora, tmp_path, monkeypatch):
    """Rotary frequencies stay fp32, built or loaded."""
    monkeypatch.setattr(backbones, "compute_dtype", lambda: torch.bfloat16)
    towers = persistence.build(config_of(backbone=folder_of("llama", tmp_path / "base"), lora=lora), QUERIES)
    assert {p.dtype for p in towers.backbone.parameters()} == {torch.bfloat16}
    model, profiles = QAnchor(towers), random_profiles()
    model.save_pretrained(tmp_path / "saved")
    again = QAnchor.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(model.embed(profiles, queries=QUERIES), again.embed(profiles, queries=QUERIES))


def test_the_first_layers_with_lora_are_cut_again_when_loaded(tmp_path):
    towers = towers_of("qwen2", tmp_path / "base", first_layers=1)
    QAnchor(towers).save_pretrained(tmp_path / "saved")
    again = persistence.load(tmp_path / "saved")
    assert len(again.backbone.get_decoder().layers) == 1
    assert persistence.fingerprint(again) == persistence.fingerprint(towers)


def test_more_layers_than_there_are_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"has 2 layers, `model.first_layers` asks for 3"):
        backbones.pretrained_backbone(folder_of("llama", tmp_path), Model(first_layers=3))


@pytest.mark.parametrize("family", ["mamba", "gpt_oss", "bert"])
def test_what_our_attention_would_read_wrongly_is_refused(family, tmp_path, monkeypatch):
    """A state space model, attention sinks, an encoder."""
    monkeypatch.setitem(FAMILIES, "mamba", {"state_size": 4})
    moe = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 16, "num_key_value_heads": 2}
    monkeypatch.setitem(FAMILIES, "gpt_oss", moe)
    with pytest.raises(ModelError, match="does more than causal attention"):
        backbones.pretrained_backbone(folder_of(family, tmp_path), Model())


def test_the_fingerprint_changes_with_frozen_weights_and_with_the_tokenizer(tmp_path):
    towers = towers_of("qwen2", tmp_path)
    before = persistence.fingerprint(towers)
    towers.tokenizer = backbones.train_tokenizer([*QUERIES, "another word"], 300)
    other = persistence.fingerprint(towers)
    towers.tokenizer = backbones.load_tokenizer(str(tmp_path))
    assert persistence.fingerprint(towers) == before != other
    with torch.no_grad():
        towers.backbone.get_decoder().layers[0].mlp.up_proj.base_layer.weight[0, 0] += 0.1
    assert persistence.fingerprint(towers) != before


def test_a_hub_name_that_cannot_be_reached_says_to_pass_a_folder(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (backbones.load_tokenizer, lambda name: backbones.pretrained_backbone(name, Model())):
        with pytest.raises(ModelError, match=r"taken as a name on the Hugging Face hub.*or a folder with config.json"):
            load("nobody/never-made-this")
