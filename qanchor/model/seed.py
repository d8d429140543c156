"""The anchor seed: a light reading of the prefix by the query, which `<USER_EMB>` starts from (design, section 7).

A transformer trained from scratch sits on a plateau for hundreds of steps before it routes by query; this near-linear
path learns to in seconds, and the backbone then refines it. It depends on prefix and query only, so sharing, caching
and packing stay exact. Pretrained backbones do without it (`anchor: constant`, the paper's way).

Shapes: B users, N suffixes, L words of the longest query, K soft-prompt vectors, H heads, P prefix columns, D width of
the backbone, d = D / H, W width of a text vector, C time scales and kinds, X = D + H * C what one reading gives, O =
128 width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.model.batch import DECAY_DAYS
from qanchor.model.head import Fixed
from qanchor.model.hierarchy import Prefix

KINDS = 8
"""Learned kinds of events that are counted too: at night, large, of one modality, whatever an event token tells."""


VOLUME = 0.5
"""How much of the user token's linear part is let through before anything is learned, against the usual scale."""
HIDDEN = torch.finfo(torch.float32).min
"""The score of padding: finite, since a user without any token has nothing else."""


@dataclass(frozen=True)
class Words:
    """Queries as wholes and as sets of words: unit vectors [V, W] and importance [V] of the distinct texts of both,
    and the whole [B, N] and the words [B, N, L] of each suffix as rows of them; shorter queries say a word again.

    Where all users are asked the same, B is 1.
    """

    vector_VW: Tensor
    importance_V: Tensor
    whole_BN: Tensor
    word_BNL: Tensor


@dataclass(frozen=True)
class Contents:
    """What the seed makes of a prefix before any question: kept with a user who was read, it is not made again."""

    value_BHPd: Tensor
    worth_BPC: Tensor
    """How often each token's text occurs, by time scale, and as an event of each kind."""


@dataclass(frozen=True)
class Told:
    """What the seed says of each suffix beside what `<USER_EMB>` starts from."""

    stream_BNY: Tensor
    """User token, own and prompted reading, by maps that are not learned [B, N, 3 * O]."""
    own_BNX: Tensor
    """What the query reads, as it is."""


class AnchorSeed(nn.Module):
    """Which events speak to the query, how many, how recent, and what they say.

    Words and events meet in the text encoder's own space, where texts that share grams are close before anything is
    learned: each head starts as the identity there, and so as a lexical match. Half of the heads match an event with
    the query as a whole, the others with the best of its words, so that long questions match like short ones. A
    soft-prompt vector is one more word, which no language has. A softmax average cannot tell one matching event from
    fifty; so each head also gates every event by a sigmoid of the same score and adds the gates up with exponential
    decay: the hand-made "count in the last 7, 30, 90 days", but of whatever the query is about.
    """

    def __init__(self, text_width: int, width: int, dim: int, user: bool = True, heads: int = 4) -> None:
        """`user`: whether prefixes begin with a user token."""
        super().__init__()
        self.heads = heads
        noise = 0.01 * torch.randn(heads, text_width, text_width)
        self.maps = nn.Parameter(torch.eye(text_width).repeat(heads, 1, 1) + noise)
        self.scale = nn.Parameter(torch.full((heads,), 10.0))
        self.threshold = nn.Parameter(torch.tensor([1.0, 3.0]).repeat(heads // 2))
        self.prompt = nn.Linear(width, text_width, bias=False)
        self.value = nn.Linear(width, width)
        self.kind = nn.Linear(width, KINDS)
        read = width + heads * (len(DECAY_DAYS) + KINDS)
        self.read = read
        """Numbers of one reading."""
        self.prompt_in = nn.Linear(read, width, bias=False)
        self.query_in = nn.Linear(read, width)
        self.user_in = nn.Linear(width, width, bias=False) if user else None
        self.user_skip = nn.Linear(width, width, bias=False) if user else None
        if self.user_skip is not None:
            with torch.no_grad():
                self.user_skip.weight *= VOLUME
        self.prompt_skip = nn.Linear(read, width, bias=False)
        self.out = nn.Linear(width, width)
        self.skip = nn.Linear(read, width, bias=False)
        self.tell_user = Fixed(width, dim) if user else None
        self.tell_own = Fixed(read, dim)
        self.tell_prompted = Fixed(read, dim)

    def contents(self, prefix: Prefix) -> Contents:
        """What depends on the prefix alone."""
        value_BPD = self.value(prefix.token_BPD)
        value_BHPd = value_BPD.unflatten(-1, (self.heads, value_BPD.shape[-1] // self.heads)).transpose(1, 2)
        kind_BPC = F.softplus(self.kind(prefix.token_BPD)).float() * prefix.worth_BPS[..., -1:].log1p()
        return Contents(value_BHPd.contiguous(), torch.cat([prefix.worth_BPS, kind_BPC], -1))

    def forward(
        self,
        prefix: Prefix,
        words: Words,
        prompt_BNKD: Tensor,
        contents: Contents | None = None,
    ) -> tuple[Tensor, Told]:
        """[B, N, D] what `<USER_EMB>` of each suffix starts from, before its learned constant is added, and what is
        told beside it.

        Prompts may be [1, N, K, D], shared by the users.
        With the prefix's `contents`, of its tokens only the first, the user token, is read.
        """
        contents = contents or self.contents(prefix)
        own_BNX = self._read(prefix, contents, self._match_query(prefix, words))
        hidden_BND, parts = self.query_in(own_BNX), [self.skip(own_BNX)]
        if prompt_BNKD.shape[2]:
            read_BRX = self._read(prefix, contents, self._match_prompt(prefix, prompt_BNKD))
            prompted_BNX = read_BRX.view(*own_BNX.shape[:2], -1, own_BNX.shape[-1]).mean(2)
            hidden_BND = hidden_BND + self.prompt_in(prompted_BNX)
            parts.append(self.prompt_skip(prompted_BNX))
        if self.user_in is not None and self.user_skip is not None:
            hidden_BND = hidden_BND + self.user_in(prefix.user_BD)[:, None]
            parts.append(self.user_skip(prefix.user_BD)[:, None])
        parts.append(self.out(F.gelu(hidden_BND)))
        seed_BND = sum(parts[1:], parts[0])
        own_BNO = self.tell_own(own_BNX)
        user_BNO = prompted_BNO = torch.zeros_like(own_BNO)
        if self.tell_user is not None:
            user_BNO = self.tell_user(prefix.user_BD.float())[:, None].expand_as(own_BNO)
        if prompt_BNKD.shape[2]:
            prompted_BNO = self.tell_prompted(prompted_BNX).expand_as(own_BNO)
        return seed_BND, Told(torch.cat([user_BNO, own_BNO, prompted_BNO], -1), own_BNX)

    def attention(self, prefix: Prefix, words: Words, prompt_BNKD: Tensor) -> Tensor:
        """[B, N, P] where each suffix looks: the mean weight of all heads, half by the query and half by the prompt."""
        own_BNP = _weights(self._match_query(prefix, words), prefix).mean(1)
        if not prompt_BNKD.shape[2]:
            return own_BNP
        prompt_BRP = _weights(self._match_prompt(prefix, prompt_BNKD), prefix).mean(1)
        prompted_BNP = prompt_BRP.view(*own_BNP.shape[:2], -1, own_BNP.shape[-1]).mean(2)
        return (own_BNP + prompted_BNP) / 2

    def _match_prompt(self, prefix: Prefix, prompt_BNKD: Tensor) -> Tensor:
        """[B, H, N * K, P] how well each event matches each soft-prompt vector."""
        virtual_BRW = F.normalize(self.prompt(prompt_BNKD), dim=-1).flatten(1, 2)
        mapped_BHRW = torch.einsum("brw,hwv->bhrv", virtual_BRW, self.maps) * self.scale[:, None, None]
        return _meet(mapped_BHRW, prefix)

    def _match_query(self, prefix: Prefix, words: Words) -> Tensor:
        """[B, H, N, P] how well each event matches each query: as a whole, and by its best word."""
        half = self.heads // 2
        mapped_VHW = torch.einsum("vw,hwx->vhx", words.vector_VW, self.maps)
        whole_BHNP = _meet(mapped_VHW[words.whole_BN, :half].transpose(1, 2), prefix)

        weighted_VHW = mapped_VHW[:, half:] * words.importance_V[:, None, None]
        match_BHRP = _meet(weighted_VHW[words.word_BNL.flatten(1)].transpose(1, 2), prefix)
        best_BHNP = match_BHRP.view(*match_BHRP.shape[:2], *words.word_BNL.shape[1:], -1).amax(3)
        return torch.cat([whole_BHNP, best_BHNP], 1) * self.scale[:, None, None]

    def _read(self, prefix: Prefix, contents: Contents, match_BHRP: Tensor) -> Tensor:
        """[B, R, X] of R readers a user: the matching events' values, and their log counts by time scale and kind."""
        weight_BHRP = _weights(match_BHRP, prefix)
        pooled_BHRd = weight_BHRP.to(contents.value_BHPd.dtype) @ contents.value_BHPd
        pooled_BRD = pooled_BHRd.transpose(1, 2).flatten(2)

        gate_BHRP = (match_BHRP - self.threshold[:, None, None]).sigmoid()
        count_BXC = gate_BHRP.flatten(1, 2) @ contents.worth_BPC.to(gate_BHRP.dtype)
        count_BHRC = count_BXC.view(*gate_BHRP.shape[:3], -1).float().log1p()
        return torch.cat([pooled_BRD.float(), count_BHRC.transpose(1, 2).flatten(2)], -1)


def _weights(match_BHRP: Tensor, prefix: Prefix) -> Tensor:
    """Matches as shares of each reader's attention; padding gets none."""
    return match_BHRP.float().masked_fill(~prefix.mask_BP[:, None, None], HIDDEN).softmax(-1)


def _meet(reader_BHRW: Tensor, prefix: Prefix) -> Tensor:
    """[B, H, R, P] products of readers, each user's own or (B = 1) the same for all, with the events' text vectors."""
    row_BXW = reader_BHRW.flatten(1, 2).expand(len(prefix), -1, -1)
    return (row_BXW @ prefix.text_BPW.transpose(1, 2)).view(len(prefix), *reader_BHRW.shape[1:3], -1)
