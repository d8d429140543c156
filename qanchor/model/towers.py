"""The dual tower (section 3.2.2): anchor tower `LLM(e_i, q)` and semantic tower `LLM(a)`, one backbone, one head.

A suffix is `query | K soft-prompt vectors | <USER_EMB>`, and in training the answer behind it for next-token
prediction; attention is causal, so `<USER_EMB>` never sees the answer.

Shapes: B users, P prefix columns, N suffixes a user, Q query columns (padding on the left), K prompt vectors, T answer
columns (padding on the right), S = Q + K + 1 + T, A answers, D width of the backbone, O = 128 width of an embedding, X
streams that an embedding is mixed of, Z numbers that a readout reads of a suffix's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.errors import ModelError
from qanchor.model import body
from qanchor.model.attention import Layout
from qanchor.model.batch import Batch
from qanchor.model.body import KeysValues, Suffixes
from qanchor.model.head import Head
from qanchor.model.hierarchy import Hierarchy, Prefix
from qanchor.model.prompts import Prompts
from qanchor.model.readout import written
from qanchor.model.seed import AnchorSeed, Contents, Told, Words
from qanchor.model.text_encoder import TextEncoder, query_words

QUERY_WORDS = 32
QUERY_TOKENS = 24
ANSWER_TOKENS = 32
"""Longer queries lose their beginning, longer answers their end."""


@dataclass(frozen=True)
class Tokens:
    """Texts as tokens and as text vectors' table, each distinct text once. [R, L] ids and mask."""

    id_RL: Tensor
    mask_RL: Tensor
    indexed: Any = None
    """Queries only: they and, behind them, their distinct words, indexed by the text encoder for the anchor seed,"""
    word_RL: Tensor | None = None
    """and the words of each query as rows of that; -1 is padding."""

    def take(self, rows: Tensor, side: str) -> tuple[Tensor, Tensor]:
        """ids and mask of `rows` (any shape, one dimension added), cut to the longest of them on its padded side."""
        id_XL, mask_XL = self.id_RL[rows], self.mask_RL[rows]
        longest = max(1, int(mask_XL.sum(-1).max())) if mask_XL.numel() else 1
        cut = slice(-longest, None) if side == "left" else slice(longest)
        return id_XL[..., cut], mask_XL[..., cut]


class Towers(nn.Module):
    """Both towers with all their parts: everything that is trained."""

    def __init__(
        self,
        backbone: Any,
        tokenizer: Any,
        text_encoder: TextEncoder,
        modalities: tuple[str, ...],
        dim: int = 128,
        prompt_tokens: int = 6,
        seeded: bool = True,
        named: bool = True,
        hybrid: bool = False,
        features: bool = False,
        user_token: bool = True,
        modality_tokens: bool = True,
    ) -> None:
        super().__init__()
        width = int(backbone.config.hidden_size)
        self.backbone, self.tokenizer, self.text_encoder = backbone, tokenizer, text_encoder
        self.width, self.dim, self.seeded, self.named, self.hybrid = width, dim, seeded, named, hybrid
        self.settings: dict[str, Any] = {}
        """What `persistence` needs to build this model again."""
        self.hierarchy = Hierarchy(
            len(modalities), text_encoder.width, width, named, features, user_token, modality_tokens
        )
        self.seed = AnchorSeed(text_encoder.width, width, dim, user_token) if seeded else None
        self.answer_seed = (
            nn.EmbeddingBag(len(tokenizer), width, mode="mean", padding_idx=tokenizer.pad_token_id) if seeded else None
        )
        self.user_emb = nn.Parameter(torch.randn(width) * 0.02)
        self.answer_emb = nn.Parameter(torch.randn(width) * 0.02)
        self.prompt = nn.Parameter(torch.randn(prompt_tokens, width) * 0.02)
        """The shared soft prompt that pretraining learns; every scenario's own prompt starts from it."""
        self.head = Head(width, dim)
        self.modalities = modalities
        self.names = text_encoder.index(list(modalities)) if named else None

    @property
    def device(self) -> torch.device:
        return self.user_emb.device

    @property
    def dtype(self) -> torch.dtype:
        """What the backbone computes in; our own small parts around it are fp32."""
        dtype: torch.dtype = self.backbone.get_input_embeddings().weight.dtype
        return dtype

    @property
    def own(self) -> tuple[int, ...]:
        """Numbers of the parts that a readout reads of a suffix: what is learned, and what its query reads."""
        return (self.dim, self.seed.read) if self.seed else (self.dim,)

    def call(self, modalities: tuple[str, ...]) -> None:
        """Read logs of these modalities from now on. Raises ModelError where modalities are known by their order."""
        if not self.named:
            raise ModelError(
                f"this model has an adapter for each of {', '.join(self.modalities)}, got {', '.join(modalities)}: "
                "use the config that it was trained with, or train anew"
            )
        self.modalities, self.names = modalities, self.text_encoder.index(list(modalities))

    def tokens(self, texts: Sequence[str], side: str) -> Tokens:
        """Tokenise distinct texts once: `left` padding for queries, `right` for answers."""
        limit = QUERY_TOKENS if side == "left" else ANSWER_TOKENS
        ids = [row[-limit:] if side == "left" else row[:limit] for row in self.tokenizer(list(texts)).input_ids]
        length_R = torch.tensor([len(row) for row in ids], dtype=torch.long)
        longest = int(length_R.max())
        column_L = torch.arange(longest)
        mask_RL = column_L >= longest - length_R[:, None] if side == "left" else column_L < length_R[:, None]
        id_RL = torch.full((len(ids), longest), int(self.tokenizer.pad_token_id))
        id_RL[mask_RL] = torch.tensor([number for row in ids for number in row], dtype=torch.long)
        if not self.seeded or side == "right":
            return Tokens(id_RL.to(self.device), mask_RL.to(self.device))
        words = [query_words(text)[:QUERY_WORDS] for text in texts]
        # each query is also a text of its own: row r of the table is query r as a whole
        known = {word: len(texts) + v for v, word in enumerate(dict.fromkeys(word for row in words for word in row))}
        word_RL = torch.full((len(words), max(map(len, words), default=1)), -1)
        for r, query in enumerate(words):
            word_RL[r, : len(query)] = torch.tensor([known[word] for word in query])
        indexed = self.text_encoder.index([*texts, *known])
        return Tokens(id_RL.to(self.device), mask_RL.to(self.device), indexed, word_RL.to(self.device))

    def prefix(self, batch: Batch, indexed: Any) -> Prefix:
        """The hierarchical user tokens e_i.

        `indexed` is the store's text table, indexed by this text encoder, or all its vectors [T, W].
        """
        if isinstance(indexed, Tensor):
            text_UW = indexed[batch.text_U.to(indexed.device)]
        else:
            text_UW = self.text_encoder(indexed, batch.text_U)
        name_MW = self.text_encoder(self.names, torch.arange(len(self.modalities))) if self.named else None
        prefix: Prefix = self.hierarchy(batch.to(self.device), text_UW, name_MW)
        return prefix

    def seeds(
        self,
        prefix: Prefix,
        queries: Tokens,
        query_BN: Tensor,
        prompt_BNKD: Tensor,
        contents: Contents | None = None,
    ) -> tuple[Tensor, Told | None]:
        """[B, N, D] what `<USER_EMB>` starts from: its learned constant, plus the anchor seed where there is one; and
        what the seed tells beside it."""
        if self.seed is None or queries.word_RL is None:
            return self.user_emb.expand(len(prefix), query_BN.shape[1], -1), None
        word_BNL = queries.word_RL[query_BN]
        word_BNL = word_BNL[..., : max(1, int((word_BNL >= 0).sum(-1).max()))]
        # a query has one word at least; said again in the place of padding, it changes no maximum
        asked_BNL = torch.cat([query_BN[..., None], word_BNL.where(word_BNL >= 0, word_BNL[..., :1])], -1)
        used_V, place_BNL = torch.unique(asked_BNL, return_inverse=True)
        vector_VW = F.normalize(self.text_encoder(queries.indexed, used_V.cpu()), dim=-1)
        importance_V = self.text_encoder.importance(queries.indexed)[used_V]
        words = Words(vector_VW, importance_V, place_BNL[..., 0], place_BNL[..., 1:])
        seed_BND, told = self.seed(prefix, words, prompt_BNKD, contents)
        return self.user_emb + seed_BND, told

    def suffixes(
        self,
        prefix: Prefix,
        queries: Tokens,
        query_BN: Tensor,
        prompt_BNKD: Tensor | None = None,
        answers: Tokens | None = None,
        answer_BN: Tensor | None = None,
        contents: Contents | None = None,
    ) -> tuple[Suffixes, Told | None]:
        """Suffixes of each user, and what the seed tells beside them; `<USER_EMB>` is the first of their own columns.

        Queries may be [1, N] and prompts [1, N, K, D], the same for all users.
        """
        users, suffixes = len(prefix), query_BN.shape[1]
        prompt_BNKD = self.prompt.expand(1, suffixes, -1, -1) if prompt_BNKD is None else prompt_BNKD
        embed = self.backbone.get_input_embeddings()
        id_ANQ, mask_ANQ = queries.take(query_BN, "left")
        seed_BND, told = self.seeds(prefix, queries, query_BN, prompt_BNKD, contents)
        each = max(len(id_ANQ), len(prompt_BNKD))
        asked_ANXD = torch.cat(
            [part.to(self.dtype).expand(each, -1, -1, -1) for part in (embed(id_ANQ), prompt_BNKD)], 2
        )
        own, masks = [seed_BND[:, :, None]], [mask_ANQ.expand(users, -1, -1)]
        masks.append(mask_ANQ.new_ones(users, suffixes, prompt_BNKD.shape[2] + 1))
        if answers is not None and answer_BN is not None:
            id_BNT, mask_BNT = answers.take(answer_BN, "right")
            own.append(embed(id_BNT))
            masks.append(mask_BNT)
        own_BNYD = torch.cat([part.to(self.dtype) for part in own], 2)
        return Suffixes(asked_ANXD, own_BNYD, torch.cat(masks, 2)), told

    def read(self, prefix: Prefix, suffixes: Suffixes, columns: slice, cached: KeysValues | None = None) -> Tensor:
        """[B, N, R, D] final states of some columns of the suffixes, counted from their end: `<USER_EMB>` or behind it.

        Without `cached`, one packed pass over prefix and all suffixes (D7); with the prefix's keys and values, a pass
        over the suffixes alone. Both equal reading `prefix + suffix` for each suffix anew, to rounding.
        """
        layout = Layout(prefix.mask_BP, suffixes.mask_BNS, self.hybrid, columns)
        return body.read(self.backbone, prefix.token_BPD.to(self.dtype), suffixes, layout, cached)

    def keys_values(self, prefix: Prefix) -> KeysValues:
        """The prefix's keys and values of every layer, to read suffixes over."""
        layout = Layout.plain(prefix.mask_BP, self.hybrid)
        return body.keys_values(self.backbone, prefix.token_BPD.to(self.dtype), layout)

    def contents(self, prefix: Prefix) -> Contents | None:
        """What the anchor seed makes of a prefix, if there is one, to ask it more than once."""
        return None if self.seed is None else self.seed.contents(prefix)

    def anchor(
        self,
        prefix: Prefix,
        queries: Tokens,
        query_BN: Tensor,
        prompts: Prompts | None = None,
        cached: KeysValues | None = None,
        contents: Contents | None = None,
    ) -> Tensor:
        """u_{i,q} [B, N, O]: the embedding of each user for each of its suffixes, by the shared prompt or their own.

        With `cached` and `contents` of the prefix, only what depends on the suffixes is computed.
        """
        own = None if prompts is None else prompts.prompt_BNKD
        stream_BNXO, own_BNZ = self.streams(prefix, queries, query_BN, own, cached, contents)
        if prompts is None:
            return self.head.mix(stream_BNXO)
        mixed_BNO = self.head.mix(stream_BNXO, prompts.share_BNX)
        return written(prompts.readout, prefix.tally_BY, own_BNZ, mixed_BNO)

    def streams(
        self,
        prefix: Prefix,
        queries: Tokens,
        query_BN: Tensor,
        prompt_BNKD: Tensor | None = None,
        cached: KeysValues | None = None,
        contents: Contents | None = None,
    ) -> tuple[Tensor, Tensor]:
        """[B, N, X, O] what `anchor` mixes (`Head.mix`), and [B, N, Z] what readouts read of it, as `own` says."""
        suffixes, told = self.suffixes(prefix, queries, query_BN, prompt_BNKD, contents=contents)
        state_BN1D = self.read(prefix, suffixes, slice(-1, None), cached)
        projection_BNQ = self.head.project(state_BN1D[:, :, 0], told.stream_BNY if told else None)
        stream_BNXO = self.head.streams(projection_BNQ, "anchor")
        learned_BNO = stream_BNXO[:, :, 0]
        return stream_BNXO, torch.cat([learned_BNO, told.own_BNX], -1) if told else learned_BNO

    def answer(self, answers: Tokens, answer_BN: Tensor) -> Tensor:
        """[B, N, O] projections of the answers: the same backbone, its last token, each distinct answer once."""
        rows, place_BN = torch.unique(answer_BN, return_inverse=True)
        id_AT, mask_AT = answers.take(rows, "right")
        end_A1D = self._answer_end(answers, rows)[:, None]
        token_ATD = self.backbone.get_input_embeddings()(id_AT)
        # The last token is a suffix of one column behind the answer's tokens: the only one that is read.
        mask_A11 = mask_AT.new_ones(len(rows), 1, 1)
        end_A11D = end_A1D[:, None].to(self.dtype)
        end = Suffixes(end_A11D[:, :, :0], end_A11D, mask_A11)
        state_AD = body.read(self.backbone, token_ATD, end, Layout(mask_AT, mask_A11))[:, 0, 0]
        return self.head.project(state_AD[place_BN])

    def aligned(
        self, prefix: Prefix, queries: Tokens, query_BN: Tensor, answers: Tokens, answer_BN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Projections of both towers with the backbone bypassed, [B, N, O] each: what the align phase trains.

        They equal those of `anchor` and `answer` as long as the backbone's residual branches are zero.
        """
        norm = self.backbone.get_decoder().norm
        seed_BND, told = self.seeds(prefix, queries, query_BN, self.prompt.expand(1, query_BN.shape[1], -1, -1))
        rows, place_BN = torch.unique(answer_BN, return_inverse=True)
        end_BND = self._answer_end(answers, rows)[place_BN]
        user_BNQ = self.head.project(norm(seed_BND.to(self.dtype)), told.stream_BNY if told else None)
        return user_BNQ, self.head.project(norm(end_BND.to(self.dtype)))

    def _answer_end(self, answers: Tokens, rows: Tensor) -> Tensor:
        """[A, D] the input at an answer's last token: a learned constant, plus the mean of its tokens if seeded."""
        if self.answer_seed is None:
            return self.answer_emb.expand(len(rows), -1)
        end_AD: Tensor = self.answer_emb + self.answer_seed(answers.id_RL[rows])
        return end_AD
