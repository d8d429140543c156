"""The anchor seed: a light attention from the query to the prefix that `<USER_EMB>` starts from (design, section 7).

A transformer trained from scratch sits on a plateau for hundreds of steps before it routes by query; this near-linear
path learns to in seconds, and the backbone then refines it. It depends on prefix and query only, so sharing, caching
and packing stay exact. Pretrained backbones do without it (`anchor: constant`, the paper's way).

Shapes: B users, N suffixes, J = 1 + K attention queries (the query's own and one a soft-prompt vector), H heads,
P prefix columns, D width of the backbone, W width of a text vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qanchor.model.hierarchy import Prefix

DECAY_DAYS = (3.0, 14.0, 60.0, 1e9)
"""Time scales at which matching events are counted; the last one counts them all alike."""


class QueryAttention(nn.Module):
    """Reads the prefix with the query's text vector: softmax attention tells *which* events, soft counts *how many*.

    A softmax average cannot tell one matching event from fifty. So each head also gates every event by a sigmoid of
    the same score and adds the gates up with exponential decay at several time scales: the hand-made "count in the
    last 7, 30, 90 days", but of whatever the query is about.
    """

    def __init__(self, text_width: int, width: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(text_width, width)
        self.prompt = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.full((heads,), -2.0))
        read = width + heads * len(DECAY_DAYS)
        self.out = nn.Linear(read, width)
        self.prompt_out = nn.Linear(read, width, bias=False)

    def forward(self, prefix: Prefix, query_BNW: Tensor, prompt_BNKD: Tensor) -> Tensor:
        """[B, N, D] what `<USER_EMB>` of each suffix starts from, before its learned constant is added.

        Prompts may be [1, N, K, D], shared by the users.
        """
        users, suffixes = query_BNW.shape[:2]
        query_BN1D = self.query(query_BNW)[:, :, None, :]
        query_BNJD = torch.cat([query_BN1D, query_BN1D + self.prompt(prompt_BNKD)], 2)
        readers = query_BNJD.shape[2]

        query_BHRd = self._heads(query_BNJD.flatten(1, 2))
        key_BHPd, value_BHPd = self._heads(self.key(prefix.token_BPD)), self._heads(self.value(prefix.token_BPD))
        score_BHRP = (query_BHRd @ key_BHPd.transpose(2, 3)).float() * key_BHPd.shape[-1] ** -0.5
        weight_BHRP = score_BHRP.masked_fill(~prefix.mask_BP[:, None, None], -torch.inf).softmax(-1)
        pooled_BRD = (weight_BHRP.to(value_BHPd.dtype) @ value_BHPd).transpose(1, 2).flatten(2)

        gate_BHRP = (score_BHRP + self.gate[:, None, None]).sigmoid()
        decay_BPC = torch.stack([torch.exp(-prefix.gap_BP / days) for days in DECAY_DAYS], -1)
        decay_BPC = decay_BPC * prefix.event_BP[..., None]
        count_BHRC = (gate_BHRP @ decay_BPC[:, None]).log1p()
        read_BRX = torch.cat([pooled_BRD.float(), count_BHRC.transpose(1, 2).flatten(2)], -1)

        read_BNJX = read_BRX.view(users, suffixes, readers, -1)
        seed_BND: Tensor = self.out(read_BNJX[:, :, 0]) + self.prompt_out(read_BNJX[:, :, 1:].mean(2))
        return seed_BND

    def _heads(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, H, L, D / H]."""
        batch, length, width = x_BLD.shape
        return x_BLD.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
