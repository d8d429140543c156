"""A model on disk: `config.json`, `model.safetensors`, `tokenizer/`, `README.md` (its card). No pickle, no remote code.

A backbone that was trained whole (the embedded one, or a pretrained one without LoRA) is stored whole. Of one with
LoRA, and of a pretrained text encoder, only what training changed is: the rest is loaded again from where it came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qanchor.config import Config, Lora, Modality, Model
from qanchor.errors import ModelError
from qanchor.events import atomic
from qanchor.model import backbone as backbones
from qanchor.model.sentence_encoder import SentenceEncoder
from qanchor.model.text_encoder import NgramEncoder, TextEncoder, load_text_encoder
from qanchor.model.towers import Towers
from qanchor.model.vocabulary import Vocabulary

FORMAT = 4
SAMPLE = 64
"""Numbers of a frozen tensor that a fingerprint reads."""


def build(config: Config, texts: list[str], vectors: Path | None = None) -> Towers:
    """A fresh model of a config; `texts` (UserU's queries and answers) train the embedded backbone's tokenizer.

    `vectors` is where a frozen text encoder keeps what it has read, for this run and the next; left out, nowhere.

    Raises:
        ModelError: backbone or text encoder cannot be loaded.
    """
    model = config.model
    text_encoder = load_text_encoder(_place(model.text_encoder, config.root), model.text_lora, vectors)
    if model.backbone == "embedded":
        tokenizer = backbones.train_tokenizer(texts)
        if isinstance(text_encoder, NgramEncoder):
            text_encoder.weigh(texts)
        backbone: Any = backbones.embedded_backbone(model.hidden, model.layers, len(tokenizer))
        backbone.to(backbones.compute_dtype())
        origin: dict[str, Any] = {"kind": "embedded", "config": backbone.config.to_diff_dict()}
    else:
        name = _place(model.backbone, config.root)
        tokenizer = backbones.load_tokenizer(name)
        backbone = backbones.pretrained_backbone(name, model)
        if model.lora is None:
            origin = {"kind": "whole", "config": backbone.config.to_diff_dict()}
        else:
            origin = {
                "kind": "pretrained",
                "name": name,
                "first_layers": model.first_layers,
                "lora": model.lora.model_dump(),
            }
    seeded = model.anchor == "attention" or (model.anchor == "auto" and model.backbone == "embedded")
    # a body of our own may be shipped, and then meets other logs; a pretrained one follows the paper
    named = model.backbone == "embedded"
    hybrid = model.prefix_attention == "hybrid"
    towers = Towers(
        backbone,
        tokenizer,
        text_encoder,
        config.modality_names,
        model.dim,
        model.prompt_tokens,
        seeded,
        named,
        hybrid,
        model.event_features,
        model.user_token,
        model.modality_tokens,
    )
    towers.settings = {
        "format": FORMAT,
        **_logs(config),
        "backbone": origin,
        "text_encoder": text_encoder.settings(),
        "dim": model.dim,
        "prompt_tokens": model.prompt_tokens,
        "seeded": seeded,
        "named": named,
        "hybrid": hybrid,
        "event_features": model.event_features,
        "user_token": model.user_token,
        "modality_tokens": model.modality_tokens,
    }
    return towers


def begin(config: Config, texts: list[str], vectors: Path | None = None) -> Towers:
    """What a config's training begins with: the weights that it names as its start, or a fresh model (see `build`).

    Raises:
        ModelError: the start is of another size than the config asks for; or as in `build`.
    """
    model = config.model
    if model.backbone != "embedded" or model.start is None:
        return build(config, texts, vectors)
    towers = load(find(_place(model.start, config.root)), vectors)
    asked = (model.hidden, model.layers, model.dim, model.prompt_tokens, model.prefix_attention == "hybrid")
    layers = towers.backbone.config.num_hidden_layers
    has = (towers.width, layers, towers.dim, len(towers.prompt), towers.hybrid)
    if asked != has or model.text_encoder != "embedded" or model.anchor == "constant":
        raise ModelError(
            f"`model` asks for hidden, layers, dim, prompt_tokens, hybrid {asked}, text encoder {model.text_encoder}, "
            f"anchor {model.anchor}; {model.start} has {has}, embedded, attention: "
            "`model.start: null` trains from scratch"
        )
    adapt(towers, config)
    return towers


def find(name: str | Path) -> Path:
    """The folder of a saved model: a path, or the name of weights that ship with the package."""
    shipped = Path(str(resources.files("qanchor") / "weights" / str(name)))
    return shipped if not Path(name).exists() and (shipped / "config.json").exists() else Path(name)


def adapt(towers: Towers, config: Config) -> None:
    """Have a model read the logs of a config. Raises ModelError where it knows other modalities by their order."""
    towers.call(config.modality_names)
    towers.settings |= _logs(config)


def _logs(config: Config) -> dict[str, Any]:
    return {
        "modalities": list(config.modality_names),
        "events": [config.modality(name).events for name in config.modality_names],
        "lookback_days": [config.lookback_days(name) for name in config.modality_names],
    }


def save(towers: Towers, folder: Path, card: str) -> None:
    """Write the model and its card."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights(towers).items()}, folder / "model.safetensors")
    towers.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "README.md").write_text(card, encoding="utf-8")
    save_settings(towers, folder)


def save_settings(towers: Towers, folder: Path) -> None:
    atomic.write(folder / "config.json", json.dumps(towers.settings, indent=2).encode())


def _place(name: str, root: Path) -> str:
    """A folder beside the YAML by its whole path; any other name as it is."""
    folder = root / name
    return str(folder.resolve()) if name != "embedded" and folder.is_dir() else name


def load(folder: Path, vectors: Path | None = None) -> Towers:
    """Read a saved model onto this process's device, ready for inference; `vectors` as in `build`.

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
    state = load_file(folder / "model.safetensors")
    narrow = any(t.dtype == torch.bfloat16 for name, t in state.items() if name.startswith("backbone."))
    dtype = backbones.compute_dtype() if narrow else torch.float32
    if origin["kind"] == "pretrained":
        own = Model(first_layers=origin.get("first_layers"), lora=Lora(**origin["lora"]))
        backbone = backbones.pretrained_backbone(origin["name"], own)
    elif origin["kind"] == "whole":
        backbone = backbones.random_like(origin["config"], dtype)
    else:  # `build` rounds the embedded one's rotary frequencies, too
        backbone = backbones.random_like(origin["config"]).to(dtype)
    towers = Towers(
        backbone,
        tokenizer,
        _text_encoder(settings["text_encoder"], vectors),
        tuple(settings["modalities"]),
        settings["dim"],
        settings["prompt_tokens"],
        settings["seeded"],
        settings["named"],
        settings["hybrid"],
        settings["event_features"],
        settings["user_token"],
        settings["modality_tokens"],
    )
    towers.settings = settings
    restore(towers, state, str(folder))
    return towers.to(backbones.device()).eval()


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


def fingerprint(towers: Towers) -> str:
    """Sixteen hex digits that change with any weight, the tokenizer and the words: what soft prompts are tied to.

    Of what is frozen (a pretrained backbone, a text encoder) the beginning of each tensor stands for the whole.
    """
    digest = hashlib.sha256(backbones.spelling(towers.tokenizer))
    digest.update(" ".join(vocabulary(towers).words).encode())
    frozen = {name: p.flatten()[:SAMPLE].bfloat16() for name, p in towers.named_parameters() if not p.requires_grad}
    for name, tensor in sorted((frozen | weights(towers)).items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def kept_events(towers: Towers) -> npt.NDArray[np.int64]:
    """[M] K_m of Eq. 2, by modality; the default for those that the model was not trained with."""
    known = dict(zip(towers.settings["modalities"], towers.settings["events"], strict=True))
    return np.array([known.get(name, Modality().events) for name in towers.modalities], np.int64)


def vocabulary(towers: Towers) -> Vocabulary:
    """The words that its soft prompts' forests look at."""
    return Vocabulary(tuple(towers.settings.get("words", ())))


def teach(towers: Towers, words: Vocabulary) -> None:
    """Have a model count these words from now on; `save_settings` has its folder say so."""
    towers.settings = towers.settings | {"words": list(words.words)}


def _text_encoder(settings: dict[str, Any], vectors: Path | None) -> TextEncoder:
    if settings["kind"] == "embedded":
        return NgramEncoder(settings["width"], settings["buckets"])
    lora = settings.get("lora")
    return SentenceEncoder(settings["name"], lora and Lora(**lora), vectors, settings["max_tokens"])
