"""The anchor seed: a light reading of the prefix by the query, which `<USER_EMB>` starts from (design, section 7).

A transformer trained from scratch sits on a plateau for hundreds of steps before it routes by query; this near-linear
path learns to in seconds, and the backbone then refines it. It depends on prefix and query only, so sharing, caching
and packing stay exact. Pretrained backbones do without it (`anchor: constant`, the paper's way).

Shapes: B users, N suffixes, J = 1 + K readers (the query's own and one a soft-prompt vector), H heads, P prefix
columns, D width of the backbone, W width of a text vector, C time scales and kinds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.model.hierarchy import Prefix

DECAY_DAYS = (3.0, 14.0, 60.0, 1e9)
"""Time scales at which matching events are counted; the last one counts them all alike."""
KINDS = 8
"""Learned kinds of events that are counted too: at night, large, of one modality, whatever an event token tells."""


class AnchorSeed(nn.Module):
    """Which events speak to the query, how many, how recent, and what they say.

    Query and events meet in the text encoder's own space, where two texts that share words are close before anything
    is learned: each head starts as the identity there, and so as a lexical match. A softmax average cannot tell one
    matching event from fifty; so each head also gates every event by a sigmoid of the same score and adds the gates up
    with exponential decay: the hand-made "count in the last 7, 30, 90 days", but of whatever the query is about.
    """

    def __init__(self, text_width: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.maps = nn.Parameter(
            torch.eye(text_width).repeat(heads, 1, 1) + 0.01 * torch.randn(heads, text_width, text_width)
        )
        self.scale = nn.Parameter(torch.full((heads,), 10.0))
        self.threshold = nn.Parameter(torch.linspace(1.0, 4.0, heads))
        self.prompt = nn.Linear(width, text_width, bias=False)
        self.value = nn.Linear(width, width)
        self.kind = nn.Linear(width, KINDS)
        read = width + heads * (len(DECAY_DAYS) + KINDS)
        self.prompt_in = nn.Linear(read, width, bias=False)
        self.query_in = nn.Linear(read, width)
        self.user_in = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.skip = nn.Linear(read, width, bias=False)

    def forward(self, prefix: Prefix, query_BNW: Tensor, prompt_BNKD: Tensor) -> Tensor:
        """[B, N, D] what `<USER_EMB>` of each suffix starts from, before its learned constant is added.

        Prompts may be [1, N, K, D], shared by the users.
        """
        users, suffixes = query_BNW.shape[:2]
        query_BN1W = F.normalize(query_BNW, dim=-1)[:, :, None]
        reader_BNJW = torch.cat([query_BN1W, query_BN1W + self.prompt(prompt_BNKD)], 2)
        read_BNJX = self._read(prefix, reader_BNJW.flatten(1, 2)).view(users, suffixes, reader_BNJW.shape[2], -1)
        own, prompted = read_BNJX[:, :, 0], read_BNJX[:, :, 1:].mean(2)
        hidden_BND = self.query_in(own) + self.prompt_in(prompted) + self.user_in(prefix.user_BD)[:, None]
        seed_BND: Tensor = self.out(F.gelu(hidden_BND)) + self.skip(own)
        return seed_BND

    def _read(self, prefix: Prefix, reader_BRW: Tensor) -> Tensor:
        """[B, R, X] of R readers a user: the matching events' values, and their log counts by time scale and kind."""
        mapped_BHRW = F.normalize(torch.einsum("brw,hwv->bhrv", reader_BRW, self.maps), dim=-1)
        match_BHRP = (mapped_BHRW @ prefix.text_BPW[:, None].transpose(2, 3)) * self.scale[:, None, None]
        weight_BHRP = match_BHRP.float().masked_fill(~prefix.mask_BP[:, None, None], -torch.inf).softmax(-1)
        value_BPD = self.value(prefix.token_BPD)
        value_BHPd = value_BPD.unflatten(-1, (self.heads, value_BPD.shape[-1] // self.heads)).transpose(1, 2)
        pooled_BRD = (weight_BHRP.to(value_BHPd.dtype) @ value_BHPd).transpose(1, 2).flatten(2)

        gate_BHRP = (match_BHRP - self.threshold[:, None, None]).sigmoid()
        worth_BPC = torch.stack([torch.exp(-prefix.gap_BP / days) for days in DECAY_DAYS], -1)
        worth_BPC = torch.cat([worth_BPC, F.softplus(self.kind(prefix.token_BPD)).float()], -1)
        worth_BPC = worth_BPC * prefix.event_BP[..., None]
        count_BHRC = (gate_BHRP @ worth_BPC[:, None].to(gate_BHRP.dtype)).float().log1p()
        return torch.cat([pooled_BRD.float(), count_BHRC.transpose(1, 2).flatten(2)], -1)
