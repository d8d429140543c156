"""Recipes lie under what a project's YAML says itself, and docs/training.md tells the truth about them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qanchor.config import Config, Lora, parse
from qanchor.errors import ConfigError
from qanchor.recipes import RECIPES, over

PAGE = Path(__file__).parent.parent / "docs" / "training.md"


def config(**keys) -> Config:
    needed = {
        "name": "tiny",
        "sources": [{"path": "x.csv", "user": "u", "time": "t", "text": "{a}", "modality": "bill"}],
        "windows": {"train": ["2025-01-01"], "validation": ["2025-01-01"], "test": ["2025-03-01"]},
    }
    return parse({**needed, **keys}, Path())


def test_the_papers_recipe_is_section_4():
    own = config(recipe="paper-0.5b")
    model, pretrain = own.model, own.training.pretrain
    assert model.backbone == "Qwen/Qwen2.5-0.5B-Instruct"
    assert model.lora == Lora(rank=64, alpha=32)
    assert (model.dim, model.prompt_tokens, model.anchor, model.text_lora) == (128, 6, "constant", None)
    assert pretrain.batch * pretrain.pairs == 2048
    assert (pretrain.steps, pretrain.lr, own.training.tune.steps) == (50_000, 2e-4, 500)
    assert [config(recipe=f"paper-{size}").model.backbone for size in ("1.5b", "3b")] == [
        "Qwen/Qwen2.5-1.5B-Instruct",
        "Qwen/Qwen2.5-3B-Instruct",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_valid_config_and_a_dump_of_it_is_itself(name):
    own = config(recipe=name)
    again = config(**own.model_dump(mode="json"))
    assert again.model_dump(exclude={"root"}) == own.model_dump(exclude={"root"})


def test_without_a_recipe_it_is_cpu_small():
    assert config().model_dump(exclude={"root"}) == config(recipe="cpu-small").model_dump(exclude={"root"})
    assert config().model.backbone == "embedded"


def test_own_keys_win_one_by_one():
    own = config(
        recipe="paper-0.5b",
        model={"backbone": "models/mine", "lora": {"rank": 8}, "text_lora": {}},
        training={"seed": 3, "pretrain": {"steps": 7}},
    )
    assert own.model.backbone == "models/mine"
    assert own.model.lora == Lora(rank=8, alpha=32)
    assert own.model.text_lora == Lora()
    assert own.model.text_encoder == "thenlper/gte-base"
    assert (own.training.seed, own.training.pretrain.steps, own.training.pretrain.lr) == (3, 7, 2e-4)
    assert config(recipe="paper-0.5b", model={"lora": None}).model.lora is None


def test_over_changes_neither_side():
    own, defaults = {"a": {"x": 1}}, {"a": {"x": 2, "y": 3}, "b": 4}
    assert over(own, defaults) == {"a": {"x": 1, "y": 3}, "b": 4}
    assert (own, defaults) == ({"a": {"x": 1}}, {"a": {"x": 2, "y": 3}, "b": 4})


def test_an_unknown_recipe_names_the_nearest_one():
    with pytest.raises(ConfigError, match=r"no recipe 'paper-0.6b'; did you mean `paper-0.5b`\?"):
        config(recipe="paper-0.6b")
    with pytest.raises(ConfigError, match="recipe"):
        config(recipe=3)
    with pytest.raises(ConfigError, match=r"unknown key `model.hiden`; did you mean `hidden`"):
        config(recipe="cpu-small", model={"hiden": 3})


def test_the_page_has_every_key_of_every_recipe_with_its_value():
    """Rows `| key | paper-* | smollm2-135m | cpu-small | whose |`."""
    rows = re.findall(r"^\| `([\w.]+)` \|([^|]*)\|([^|]*)\|([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.M)
    cells = {row[0]: row[1:] for row in rows}
    for column, name in enumerate(("paper-0.5b", "smollm2-135m", "cpu-small")):
        own = config(recipe=name)
        for key, row in cells.items():
            value = own
            for part in key.split("."):
                value = getattr(value, part)
            shown = row[column].strip().strip("`").replace(",", "")
            assert shown in ("-", written(value)), (name, key)
    for recipe in RECIPES.values():
        assert set(flat(recipe)) - {"model.dim", "model.prompt_tokens"} <= set(cells)


def written(value: object) -> str:
    if isinstance(value, Lora):
        return f"rank {value.rank} alpha {value.alpha:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def flat(keys, prefix: str = "") -> list[str]:
    parts = []
    for key, value in keys.items():
        deep = isinstance(value, dict) and key not in ("lora", "text_lora")
        parts += flat(value, f"{prefix}{key}.") if deep else [f"{prefix}{key}"]
    return parts
