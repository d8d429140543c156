"""The decoder-only LLM behind both towers: the embedded default, or any Hugging Face one with LoRA (D5)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config

from qanchor.config import Model
from qanchor.errors import ModelError
from qanchor.model import attention

VOCABULARY = 4096
PAD, END = "<|pad|>", "<|end|>"


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
    """A Hugging Face decoder by name or folder, frozen, with LoRA on all its linear projections.

    Raises:
        ModelError: it cannot be loaded, or `peft` is missing.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(name, attn_implementation=attention.NAME, dtype=compute_dtype())
    except (OSError, ValueError) as error:
        kind = "folder" if Path(name).exists() else "model name"
        raise ModelError(
            f"backbone {name!r} ({kind}) cannot be loaded: {error}; give `embedded`, or a folder with config.json, "
            "tokenizer files and model.safetensors"
        ) from error
    return with_lora(model, settings)


def with_lora(model: Any, settings: Model) -> nn.Module:
    """Inject LoRA (section 4: rank 64, alpha 32) into every linear layer of the decoder; the rest is frozen."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ModelError("a pretrained backbone needs LoRA: pip install 'qanchor[lora]'") from None
    config = LoraConfig(
        r=settings.lora.rank, lora_alpha=settings.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():  # peft asks transformers by a name that transformers calls old
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config).get_base_model()  # type: ignore[no-any-return]


def random_like(config: dict[str, Any]) -> nn.Module:
    """A backbone of a saved configuration, weights to be loaded over it."""
    settings = dict(config)
    kind = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return AutoModelForCausalLM.from_config(kind, attn_implementation=attention.NAME)  # type: ignore[no-any-return]


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


def load_tokenizer(name: str) -> Any:
    """A Hugging Face tokenizer by name or folder; the end-of-text token pads where no padding token exists."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
