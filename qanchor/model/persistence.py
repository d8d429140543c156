"""A model on disk: `config.json`, `model.safetensors`, `tokenizer/`, `README.md` (its card). No pickle, no remote code.

The embedded backbone is stored whole. Of a pretrained one, only what training changed (LoRA and our own parts) is:
the rest is loaded again from where it came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qanchor.config import Config, Lora, Model
from qanchor.errors import ModelError
from qanchor.model import backbone as backbones
from qanchor.model.text_encoder import NgramEncoder, SentenceEncoder, TextEncoder, load_text_encoder
from qanchor.model.towers import Towers

FORMAT = 1


def build(config: Config, texts: list[str]) -> Towers:
    """A fresh model of a config; `texts` (UserU's queries and answers) train the embedded backbone's tokenizer."""
    model = config.model
    text_encoder = load_text_encoder(model.text_encoder)
    if model.backbone == "embedded":
        tokenizer = backbones.train_tokenizer(texts)
        if isinstance(text_encoder, NgramEncoder):
            text_encoder.weigh(texts)
        backbone: Any = backbones.embedded_backbone(model.hidden, model.layers, len(tokenizer))
        backbone.to(backbones.compute_dtype())
        origin: dict[str, Any] = {"kind": "embedded", "config": backbone.config.to_diff_dict()}
    else:
        tokenizer = backbones.load_tokenizer(model.backbone)
        backbone = backbones.pretrained_backbone(model.backbone, model)
        origin = {"kind": "pretrained", "name": model.backbone, "lora": model.lora.model_dump()}
    seeded = model.anchor == "attention" or (model.anchor == "auto" and model.backbone == "embedded")
    towers = Towers(
        backbone, tokenizer, text_encoder, config.modality_names, model.dim, model.prompt_tokens, seeded=seeded
    )
    towers.settings = {
        "format": FORMAT,
        "modalities": list(config.modality_names),
        "events": [config.modality(name).events for name in config.modality_names],
        "lookback_days": [config.lookback_days(name) for name in config.modality_names],
        "backbone": origin,
        "text_encoder": text_encoder.settings(),
        "dim": model.dim,
        "prompt_tokens": model.prompt_tokens,
        "seeded": seeded,
    }
    return towers


def save(towers: Towers, folder: Path, card: str) -> None:
    """Write the model and its card."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights(towers).items()}, folder / "model.safetensors")
    towers.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(towers.settings, indent=2), encoding="utf-8")


def load(folder: Path) -> Towers:
    """Read a saved model, ready for inference.

    Raises:
        ModelError: the folder holds no qanchor model, or one of another format, or its weights do not fit.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no model (no config.json): train one with `qanchor pretrain`") from None
    if settings.get("format") != FORMAT:
        raise ModelError(f"{folder} has format {settings.get('format')!r}, this version reads {FORMAT}: train it anew")
    tokenizer = backbones.load_tokenizer(str(folder / "tokenizer"))
    origin = settings["backbone"]
    if origin["kind"] == "embedded":
        backbone = backbones.random_like(origin["config"])
    else:
        backbone = backbones.pretrained_backbone(origin["name"], Model(lora=Lora(**origin["lora"])))
    towers = Towers(
        backbone,
        tokenizer,
        _text_encoder(settings["text_encoder"]),
        tuple(settings["modalities"]),
        settings["dim"],
        settings["prompt_tokens"],
        seeded=settings["seeded"],
    )
    towers.settings = settings
    state = load_file(folder / "model.safetensors")
    if any(tensor.dtype == torch.bfloat16 for tensor in state.values()):
        towers.backbone.to(backbones.compute_dtype())
    restore(towers, state, str(folder))
    return towers.eval()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trainable parameters and buffers (a frozen pretrained LLM stays at home)."""
    trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    persistent = model.state_dict().keys()
    return trainable | {name: buffer for name, buffer in model.named_buffers() if name in persistent}


def restore(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Put `weights` back. Raises ModelError when names or shapes differ."""
    own = weights(model)
    odd = [name for name in own.keys() | state.keys() if name not in own or name not in state]
    odd += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if odd:
        raise ModelError(
            f"{origin}: weights do not fit this model, first at {sorted(odd)[0]}: load them into their own"
        )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def fingerprint(model: nn.Module) -> str:
    """Sixteen hex digits that change with any weight: what soft prompts are tied to."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights(model).items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def kept_events(towers: Towers) -> npt.NDArray[np.int64]:
    """[M] K_m of Eq. 2, by modality."""
    return np.array(towers.settings["events"], np.int64)


def _text_encoder(settings: dict[str, Any]) -> TextEncoder:
    if settings["kind"] == "embedded":
        return NgramEncoder(settings["width"], settings["buckets"])
    return SentenceEncoder(settings["name"], max_tokens=settings["max_tokens"])
