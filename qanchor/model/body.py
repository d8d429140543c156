"""The backbone's layers over a packed sequence, and of the last one only what is read.

After the last layer only `<USER_EMB>` is read, and in training the answer rows behind it that predict a token. Of all
other rows the last layer needs keys and values alone: no query, no attention, no MLP. The embedded default has one
layer, so that this is most of its work. And what goes into the first layer of a suffix's question and prompt is the
same for every user who is asked alike, and so are its places, counted from the prefix's end: of a model of one layer
their keys and values are made once, whoever is asked, and a question more costs a user no more than its `<USER_EMB>`.

Layers are called as the library's own forward calls them, through their arguments; where a family's forward does more
than that (Gemma scales its input and has rotary positions of two kinds), its whole decoder runs and rows are picked
from what comes out.

Shapes: B users, A those whose questions are told apart (1 or B), P prefix columns, N suffixes, X columns of a question
with its prompt, Y of what comes behind it, S = X + Y, R of Y that are read, L = P + N*S or N*S, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import rotate_half

from qanchor.model.attention import KeyValue, Layout

KeysValues = list[KeyValue]
"""Keys and values of a prefix, layer by layer."""
BY_LAYER = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose decoder is its layers one after another and a norm; compared with the library at load."""


@dataclass(frozen=True)
class Suffixes:
    """Input vectors of suffixes."""

    asked_ANXD: Tensor
    """Question and soft prompt; A is 1 where all users are asked alike."""
    own_BNYD: Tensor
    """`<USER_EMB>`, and in training the answer."""
    mask_BNS: Tensor
    """True at real tokens."""

    @property
    def row_BLD(self) -> Tensor:
        """All of them, one after another."""
        return torch.cat([self.asked_ANXD.expand(len(self.own_BNYD), -1, -1, -1), self.own_BNYD], 2).flatten(1, 2)


def read(
    backbone: Any, prefix_BPD: Tensor, suffixes: Suffixes, layout: Layout, cached: KeysValues | None = None
) -> Tensor:
    """[B, N, R, D] final states of the suffixes' columns that `layout.read` names, from `<USER_EMB>` on.

    With the prefix's keys and values in `cached`, its vectors are not looked at.
    """
    decoder = backbone.get_decoder()
    if backbone.config.model_type not in BY_LAYER:
        row_BLD = suffixes.row_BLD if cached else torch.cat([prefix_BPD, suffixes.row_BLD], 1)
        place_BL = layout.suffix_position_ids if cached else layout.position_ids
        out_BLD = decoder(
            inputs_embeds=row_BLD, position_ids=place_BL, layout=layout, cached=cached, use_cache=False
        ).last_hidden_state
        return layout.picked(out_BLD)
    *first, last = decoder.layers
    asked_ANXD, own_BNYD, place_BNS = suffixes.asked_ANXD, suffixes.own_BNYD, layout.suffix_place_BNS
    if first:
        row_BLD, place_BL = suffixes.row_BLD, place_BNS.flatten(1)
        if cached is None:
            row_BLD, place_BL = torch.cat([prefix_BPD, row_BLD], 1), torch.cat([layout.prefix_place_BP, place_BL], 1)
        turns = decoder.rotary_emb(row_BLD, place_BL)
        for layer in first:
            row_BLD = layer(row_BLD, position_embeddings=turns, layout=layout, cached=cached)
        before = row_BLD.shape[1] - layout.suffix_columns
        prefix_BPD, suffix_BNSD = row_BLD[:, :before], row_BLD[:, before:].view(*place_BNS.shape, -1)
        columns = asked_ANXD.shape[2]
        asked_ANXD, own_BNYD = suffix_BNSD[:, :, :columns], suffix_BNSD[:, :, columns:]

    users, _, columns, _ = asked_ANXD.shape
    held = [cached[-1] if cached else _key_value(decoder, prefix_BPD, layout.prefix_place_BP)]
    if columns:
        held.append(_key_value(decoder, asked_ANXD.flatten(1, 2), place_BNS[:users, :, :columns].flatten(1)))
    held.append(_key_value(decoder, own_BNYD.flatten(1, 2), place_BNS[:, :, columns:].flatten(1)))
    read_BNRD = own_BNYD[:, :, layout.read]
    row_BXD = read_BNRD.flatten(1, 2)
    turns = decoder.rotary_emb(row_BXD, place_BNS[:, :, layout.read].flatten(1))
    state_BXD = last(row_BXD, position_embeddings=turns, layout=layout, cached=cached, held=held)
    state_BNRD: Tensor = decoder.norm(state_BXD).view(read_BNRD.shape)
    return state_BNRD


def keys_values(backbone: Any, prefix_BPD: Tensor, layout: Layout) -> KeysValues:
    """A prefix's keys and values of every layer, [B, heads, P, D / heads] each, to read suffixes over."""
    decoder, kept = backbone.get_decoder(), KeysValues()
    if backbone.config.model_type not in BY_LAYER:
        decoder(inputs_embeds=prefix_BPD, position_ids=layout.position_ids, layout=layout, kept=kept, use_cache=False)
        return kept
    place_BP = layout.prefix_place_BP
    turns = decoder.rotary_emb(prefix_BPD, place_BP)
    for layer in decoder.layers[:-1]:
        prefix_BPD = layer(prefix_BPD, position_embeddings=turns, layout=layout, kept=kept)
    return [*kept, _key_value(decoder, prefix_BPD, place_BP)]


def _key_value(decoder: Any, row_BLD: Tensor, place_BL: Tensor) -> KeyValue:
    """What the last layer's attention makes of its input for others to look at: rotated keys, and values."""
    layer = decoder.layers[-1]
    attention, row_BLD = layer.self_attn, layer.input_layernorm(row_BLD)
    key, value = (
        linear(row_BLD).unflatten(-1, (-1, attention.head_dim)) for linear in (attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "k_norm"):
        key = attention.k_norm(key)
    key = key.transpose(1, 2)
    cos, sin = (turn[:, None] for turn in decoder.rotary_emb(row_BLD, place_BL))
    return key * cos + rotate_half(key) * sin, value.transpose(1, 2)
