"""The decoder-only LLM behind both towers: the embedded default, or any Hugging Face one (D5)."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config
from transformers.utils import logging

from qanchor.config import Lora, Model
from qanchor.errors import ModelError
from qanchor.model import attention, body

VOCABULARY = 4096
PAD, END = "<|pad|>", "<|end|>"


def device() -> torch.device:
    """Where this process computes: the GPU that `torchrun` gave it, or the first one; without any, the CPU."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


def compute_dtype() -> torch.dtype:
    """bf16 where this machine multiplies faster in it (CUDA, CPUs with AMX or AVX512-bf16), else fp32.

    A bf16 backbone holds bf16 weights: autocast over fp32 ones would spend most of a small model's time on casts.
    """
    fast = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def embedded_backbone(width: int, layers: int, vocabulary: int) -> nn.Module:
    """A small Qwen2-shaped model with random weights whose residual branches start at zero.

    With zero branches the backbone passes `<USER_EMB>` through unchanged, so that what the anchor seed has learned is
    where it starts from (design, section 7). As many KV heads as heads: at this size grouping saves nothing. The MLP is
    narrow, since on a CPU a small model spends its time on what is done to each element, not on products.
    """
    heads = max(1, width // 64)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    for layer in model.get_decoder().layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    return model  # type: ignore[no-any-return]


def pretrained_backbone(name: str, settings: Model) -> nn.Module:
    """A Hugging Face decoder by name or folder: all its layers or the first few, with LoRA or to be trained whole.

    Raises:
        ModelError: it cannot be loaded, it is not a decoder that our attention can run, or `peft` is missing.
    """
    with loading("backbone", name):
        config = AutoConfig.from_pretrained(name)
        if settings.first_layers:
            _cut(config, settings.first_layers, name)
        with _silent_about_layers_left_out():
            model = AutoModelForCausalLM.from_pretrained(
                name, config=config, attn_implementation=attention.NAME, dtype=compute_dtype(), use_safetensors=True
            )
    _refuse_if_read_otherwise(model, name)
    return model if settings.lora is None else with_lora(model, settings.lora, "CAUSAL_LM")


@contextlib.contextmanager
def loading(what: str, name: str) -> Iterator[None]:
    """Whatever Hugging Face says of a name or folder that it cannot load, as a ModelError that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        kind = "folder" if Path(name).exists() else "not a folder here, so taken as a name on the Hugging Face hub"
        raise ModelError(
            f"{what} {name!r} ({kind}) cannot be loaded: {' '.join(str(error).split())}; give `embedded`, or a folder "
            "with config.json, tokenizer files and model.safetensors (docs/training.md, offline)"
        ) from error


def _cut(config: Any, layers: int, name: str) -> None:
    """Let a configuration end after its first `layers` layers."""
    if layers > config.num_hidden_layers:
        raise ModelError(
            f"backbone {name!r} has {config.num_hidden_layers} layers, `model.first_layers` asks for {layers}: lower it"
        )
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


@contextlib.contextmanager
def _silent_about_layers_left_out() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@torch.no_grad()
def _refuse_if_read_otherwise(model: Any, name: str) -> None:
    """Read `prefix + suffix` past another suffix in one pass, and once more alone, by the library's own attention.

    A model whose attention is told more than ours understands (sinks, chunks), or that mixes tokens by other means
    than attention (Mamba, linear layers), would be read wrongly without a word.

    Raises:
        ModelError: both readings differ by more than rounding.
    """
    decoder = model.get_decoder()
    if not hasattr(model.config, "hidden_size"):
        raise ModelError(f"backbone {name!r} ({model.config.model_type}) is no text decoder: give its text model")
    vectors = model.get_input_embeddings().weight[torch.arange(6) * (model.config.vocab_size // 6)][None]
    mask = torch.ones(1, 2, dtype=torch.bool, device=vectors.device)
    layout = attention.Layout(mask, mask[:, :, None].expand(1, 2, 2), read=slice(-2, None))
    row_12SD = vectors[:, 2:].unflatten(1, (2, 2))
    suffixes, own = body.Suffixes(row_12SD[:, :, :0], row_12SD, layout.suffix_mask_BNS), [0, 1, 4, 5]
    try:
        packed = body.read(model, vectors[:, :2], suffixes, layout)[:, -1]
        model.set_attn_implementation("eager")
        alone = decoder(inputs_embeds=vectors[:, own], use_cache=False).last_hidden_state[:, 2:]
    except (TypeError, ValueError, AttributeError) as error:
        raise _unreadable(name, model) from error
    model.set_attn_implementation(attention.NAME)
    if not (packed - alone).norm() < torch.finfo(packed.dtype).eps ** 0.5 * alone.norm():
        raise _unreadable(name, model)


def _unreadable(name: str, model: Any) -> ModelError:
    return ModelError(
        f"backbone {name!r} ({model.config.model_type}) does more than causal attention over a sequence, so that its "
        "prefix cannot be shared: give a decoder such as Qwen2, Qwen3, Llama, Mistral or Gemma"
    )


def with_lora(model: Any, lora: Lora, task: str) -> nn.Module:
    """Inject LoRA (section 4: rank 64, alpha 32) into every linear layer; the rest of the model is frozen."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ModelError("a pretrained model needs LoRA: pip install 'qanchor[lora]'") from None
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type=task)
    with warnings.catch_warnings():  # peft asks transformers by a name that transformers calls old
        warnings.simplefilter("ignore", FutureWarning)
        # in the model's own dtype, without casts back and forth: training keeps fp32 masters of it
        return get_peft_model(model, config, autocast_adapter_dtype=False).get_base_model()  # type: ignore[no-any-return]


def random_like(config: dict[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A backbone of a saved configuration, weights to be loaded over it; rotary frequencies stay fp32."""
    settings = dict(config)
    kind = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return AutoModelForCausalLM.from_config(kind, attn_implementation=attention.NAME, dtype=dtype)  # type: ignore[no-any-return]


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """The embedded backbone's own tokenizer: byte-level BPE, so that any language and any string has tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def spelling(tokenizer: Any) -> bytes:
    """What changes with a tokenizer's vocabulary or its way of cutting texts, and not when it is saved and loaded."""
    ids = tokenizer("The user's 2 cafés, 12.50 at 北京 <END>").input_ids
    return json.dumps([sorted(tokenizer.get_vocab().items()), ids]).encode()


def load_tokenizer(name: str) -> Any:
    """A Hugging Face tokenizer by name or folder; the end-of-text token pads where no padding token exists.

    Raises:
        ModelError: there is none.
    """
    with loading("tokenizer of the backbone", name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
