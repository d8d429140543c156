"""The backbone's layers over a packed sequence, and of the last one only what is read.

After the last layer only `<USER_EMB>` is read, and in training the answer rows behind it that predict a token. Of all
other rows the last layer needs keys and values alone: no query, no attention, no MLP. The embedded default has one
layer, so that this is most of its work.

Layers are called as the library's own forward calls them, through their arguments; where a family's forward does more
than that (Gemma scales its input and has rotary positions of two kinds), its whole decoder runs and rows are picked
from what comes out.

Shapes: B users, P prefix columns, N suffixes, S columns of a suffix, R of them that are read, L = P + N*S or N*S,
D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import rotate_half

from qanchor.model.attention import KeyValue, Layout

KeysValues = list[KeyValue]
"""Keys and values of a prefix, layer by layer."""
BY_LAYER = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose decoder is its layers one after another and a norm; compared with the library at load."""


def read(backbone: Any, row_BLD: Tensor, layout: Layout, cached: KeysValues | None = None) -> Tensor:
    """[B, N, R, D] final states of the columns that `layout.read` names.

    Rows are prefix and suffixes, or, with the prefix's keys and values in `cached`, the suffixes alone.
    """
    decoder = backbone.get_decoder()
    place_BL = layout.position_ids if cached is None else layout.suffix_position_ids
    if backbone.config.model_type not in BY_LAYER:
        out_BLD = decoder(
            inputs_embeds=row_BLD, position_ids=place_BL, layout=layout, cached=cached, use_cache=False
        ).last_hidden_state
        return layout.picked(out_BLD)
    turns = decoder.rotary_emb(row_BLD, place_BL)
    *first, last = decoder.layers
    for layer in first:
        row_BLD = layer(row_BLD, position_embeddings=turns, layout=layout, cached=cached)
    held = _key_value(last, row_BLD, turns)
    read_BNRD = layout.picked(row_BLD)
    read_turns = tuple(layout.picked(turn.expand(len(row_BLD), -1, -1)).flatten(1, 2) for turn in turns)
    state_BLD = last(read_BNRD.flatten(1, 2), position_embeddings=read_turns, layout=layout, cached=cached, held=held)
    state_BNRD: Tensor = decoder.norm(state_BLD).view(read_BNRD.shape)
    return state_BNRD


def keys_values(backbone: Any, prefix_BPD: Tensor, layout: Layout) -> KeysValues:
    """A prefix's keys and values of every layer, [B, heads, P, D / heads] each, to read suffixes over."""
    decoder, kept = backbone.get_decoder(), KeysValues()
    if backbone.config.model_type not in BY_LAYER:
        decoder(inputs_embeds=prefix_BPD, position_ids=layout.position_ids, layout=layout, kept=kept, use_cache=False)
        return kept
    turns = decoder.rotary_emb(prefix_BPD, layout.position_ids)
    *first, last = decoder.layers
    for layer in first:
        prefix_BPD = layer(prefix_BPD, position_embeddings=turns, layout=layout, kept=kept)
    return [*kept, _key_value(last, prefix_BPD, turns)]


def _key_value(layer: Any, row_BLD: Tensor, turns: tuple[Tensor, Tensor]) -> KeyValue:
    """What a layer's attention makes of its input for others to look at: rotated keys, and values."""
    attention, row_BLD = layer.self_attn, layer.input_layernorm(row_BLD)
    key, value = (
        linear(row_BLD).unflatten(-1, (-1, attention.head_dim)) for linear in (attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "k_norm"):
        key = attention.k_norm(key)
    key = key.transpose(1, 2)
    cos, sin = (turn[:, None] for turn in turns)
    return key * cos + rotate_half(key) * sin, value.transpose(1, 2)
