"""A soft prompt is a small file that fits one model: any other, and any other file, is refused with the remedy."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_towers
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import normalizers

from qanchor.errors import ModelError
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.prompts import FORMAT, SoftPrompt


def prompt_of(towers) -> SoftPrompt:
    prototype = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    fingerprint = persistence.fingerprint(towers)
    return SoftPrompt("coffee", "买咖啡吗? coffee?", towers.prompt.detach() + 1, prototype, fingerprint)


def test_saved_and_loaded_equals_before_and_says_what_it_is(towers, tmp_path):
    path, prompt = tmp_path / "prompts" / "coffee.safetensors", prompt_of(towers)
    prompt.save(path)
    again = SoftPrompt.load(path, prompt.model)
    assert torch.equal(again.prompt_KD, prompt.prompt_KD)
    assert torch.equal(again.prototype_CO, prompt.prototype_CO)
    assert (again.scenario, again.query, again.classes, again.model) == ("coffee", prompt.query, 3, prompt.model)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["qanchor"])
    assert about == {"format": FORMAT, "scenario": "coffee", "query": prompt.query, "classes": 3, "model": prompt.model}
    assert path.stat().st_size < 4096
    assert [p.name for p in path.parent.iterdir()] == ["coffee.safetensors"]


def other_weights(towers):
    with torch.no_grad():
        towers.head.linear.weight[0, 0] += 1e-3


def other_text_encoder(towers):
    with torch.no_grad():
        towers.text_encoder.log_weight[7] += 0.01


def other_statistics(towers):
    towers.head.anchor.mean[3] += 0.01


def other_tokenizer(towers):
    towers.tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()  # no longer in lower case


@pytest.mark.parametrize("change", [other_weights, other_text_encoder, other_statistics, other_tokenizer])
def test_a_prompt_of_another_model_is_refused_whatever_it_differs_in(change, tmp_path):
    towers = tiny_towers()
    QAnchor(towers, {"coffee": prompt_of(towers)}).save_pretrained(tmp_path)
    assert QAnchor.from_pretrained(tmp_path).prompts["coffee"].classes == 3
    change(towers)
    persistence.save(towers, tmp_path, "")
    with pytest.raises(ModelError, match=r"was tuned on model .* tune the scenario again on it"):
        QAnchor.from_pretrained(tmp_path)


def test_what_is_no_prompt_is_refused(towers, tmp_path):
    path, model = tmp_path / "coffee.safetensors", persistence.fingerprint(towers)
    with pytest.raises(ModelError, match=r"no soft prompt at .*`qanchor tune`"):
        SoftPrompt.load(path, model)
    path.write_bytes(b"half a fi")
    with pytest.raises(ModelError, match=r"is no soft prompt .* tune the scenario again"):
        SoftPrompt.load(path, model)
    save_file({"prompt": torch.zeros(2, 3)}, path)
    with pytest.raises(ModelError, match=r"is no soft prompt .* tune the scenario again"):
        SoftPrompt.load(path, model)
    save_file({"prompt": torch.zeros(2, 3), "prototype": torch.zeros(2, 3)}, path, {"qanchor": '{"format": 9}'})
    with pytest.raises(ModelError, match=f"has format 9, this version reads {FORMAT}: tune the scenario again"):
        SoftPrompt.load(path, model)
