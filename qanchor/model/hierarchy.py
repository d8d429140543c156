"""The coarse-to-fine user encoder: events -> modality tokens -> user token (section 3.2.1, Eq. 1 and 2).

Shapes: B users, M modalities, E events, U distinct texts of a batch, R (user, text) pairs,
P = 1 + M + event tokens of the longest user,
T event tokens of all users, D width of the backbone, W width of a text vector; F, C, X, Y (its W) and S as in batch.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qanchor.events.profiles import CODES
from qanchor.model.batch import COUNT_FEATURES, DECAY_DAYS, EVENT_FEATURES, IDLE_BUCKETS, TOTAL_FEATURES, Batch

BLOCK = 16
"""Rows that are multiplied at once are padded to a multiple of this: what a product gives for a row then does not
depend on how many rows there are, bit for bit (docs/decisions/0006-speed.md)."""
CATEGORIES = 0.3
"""How much the user token holds of each category's counts before anything is learned, against a modality's."""


@dataclass(frozen=True)
class Prefix:
    """The hierarchical user tokens e_i of Eq. 2: [user; modalities; events], padding on the right."""

    token_BPD: Tensor
    mask_BP: Tensor
    """True at real tokens."""
    worth_BPS: Tensor
    """How often an event token's text occurs, decayed at S time scales; 0 at user and modality tokens."""
    text_BPW: Tensor
    """Unit-length text vector of event tokens, 0 elsewhere: what the anchor seed matches queries with."""
    tally_BY: Tensor
    """How much there is of everything (tally.py): for readouts alone, no token holds it."""

    def __len__(self) -> int:
        return len(self.token_BPD)

    @property
    def user_BD(self) -> Tensor:
        """The user token: the first real one, wherever the padding is."""
        first_B = self.mask_BP.int().argmax(1)
        return self.token_BPD[torch.arange(len(self), device=first_B.device), first_B]


class Adapter(nn.Sequential):
    """MLP(LayerNorm(x)), the form of every adapter of the hierarchy."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))


class Hierarchy(nn.Module):
    """Turns a batch of events into prefix tokens.

    Eq. 1 takes the text embedding h alone; with `features`, h = W text + V features (value, calendar, gap to the newest
    event). A modality's summary carries its counts, since a mean cannot tell one coffee from fifty. The layer norm of
    an adapter takes most of their size away again; so the user token also holds all counts in a linear form, of which a
    probe can add and subtract logs (docs/decisions/0008-volume.md).

    `named`: a modality is known by its name's text vector, which joins what every modality's events pass through alike,
    and the user token reads the mean of the modality tokens; so the weights fit logs of any modalities. Otherwise, as
    in the paper, each modality has an adapter of its own and the user adapter reads all modality tokens side by side;
    modalities are then known by their order.

    Without `user_token` or `modality_tokens` the prefix has no such columns, and without the former no tally (Tables 3
    and 6).
    """

    def __init__(
        self,
        modalities: int,
        text_width: int,
        width: int,
        named: bool,
        features: bool,
        user_token: bool = True,
        modality_tokens: bool = True,
    ) -> None:
        super().__init__()
        self.width, self.named = width, named
        self.user_token, self.modality_tokens = user_token, modality_tokens
        own = 1 if named else modalities
        self.text_in = nn.Linear(text_width, width, bias=False)
        self.feature_in = nn.Linear(EVENT_FEATURES, width) if features else None
        self.event = nn.ModuleList(Adapter(width, width) for _ in range(own))
        self.worth_in = nn.Linear(len(DECAY_DAYS), width)
        self.count_in = nn.Linear(COUNT_FEATURES, width)
        if named:
            self.by_name = nn.Linear(text_width, width)
        else:
            self.by_order = nn.Parameter(torch.randn(modalities, width) * 0.02)
        self.absent = nn.Parameter(torch.randn(own, width) * 0.02)
        self.modal = Adapter(width, width)
        self.user = Adapter(own * width, width)
        self.idle = nn.Embedding(IDLE_BUCKETS, width)
        self.total_in = nn.Linear(TOTAL_FEATURES, width)
        self.own_in = nn.Linear(COUNT_FEATURES, width, bias=False)
        self.kind_in = nn.Linear(COUNT_FEATURES, width, bias=False)
        with torch.no_grad():
            self.kind_in.weight *= CATEGORIES
        self.kind_code = nn.Embedding(CODES, width)
        if named:
            self.own_by_name = nn.Linear(text_width, width, bias=False)
            nn.init.normal_(self.own_by_name.weight)  # names are unit vectors: signs and sizes of about one
        else:
            self.own_by_order = nn.Parameter(torch.randn(modalities, width))

    def forward(self, batch: Batch, text_UW: Tensor, name_MW: Tensor | None) -> Prefix:
        """The prefix of each user of `batch`, from the vectors of its distinct texts and, if `named`, modalities."""
        users = len(batch)
        name_MD = self._names(name_MW)
        event_ED = self._events(batch, text_UW, name_MD)
        modal_BMD = self._modalities(batch, event_ED, name_MD)
        side_by_side_BD = modal_BMD.mean(1) if self.named else modal_BMD.flatten(1)
        user_BD = self.user(side_by_side_BD) + self.idle(batch.idle_B) + self._volume(batch, name_MW)

        coarse = [user_BD[:, None]] * self.user_token + [modal_BMD] * self.modality_tokens
        head = sum(part.shape[1] for part in coarse)
        columns = head + batch.slots
        token_BPD = event_ED.new_zeros(users, columns, self.width)
        if coarse:
            token_BPD[:, :head] = torch.cat(coarse, 1).to(token_BPD.dtype)
        row, column = batch.token_owner_T, head + batch.token_slot_T
        entry_R = (batch.entry_token_R >= 0).nonzero().squeeze(1)
        token_R = batch.entry_token_R[entry_R]
        own_RS = batch.entry_worth_RS[entry_R]
        worth_TS = own_RS.new_zeros(len(row), own_RS.shape[1]).index_add(0, token_R, own_RS)
        token_BPD = token_BPD.index_put((row, column), self._tokens(batch, event_ED, worth_TS))

        mask_BP = torch.zeros(users, columns, dtype=torch.bool, device=event_ED.device)
        mask_BP[:, :head] = True
        mask_BP[row, column] = True
        worth_BPS = worth_TS.new_zeros(users, columns, len(DECAY_DAYS))
        worth_BPS[row, column] = worth_TS
        unit_UW = F.normalize(text_UW, dim=-1)
        said_RW = unit_UW[batch.entry_text_R[entry_R]] * own_RS[:, -1:].to(unit_UW.dtype)
        text_TW = F.normalize(unit_UW.new_zeros(len(row), unit_UW.shape[1]).index_add(0, token_R, said_RW), dim=-1)
        text_BPW = unit_UW.new_zeros(users, columns, unit_UW.shape[1]).index_put((row, column), text_TW)
        tally_BY = batch.tally_BW if self.user_token else torch.zeros_like(batch.tally_BW)
        return Prefix(token_BPD, mask_BP, worth_BPS, text_BPW, tally_BY)

    def _volume(self, batch: Batch, name_MW: Tensor | None) -> Tensor:
        """[B, D] how much and how lately, linear in the logs of counts: of the whole window, modalities, categories."""
        own_BMD = self.own_in(batch.count_BMC)
        name_MD = self.own_by_order if name_MW is None else self.own_by_name(F.normalize(name_MW, dim=-1))
        volume_BD: Tensor = self.total_in(batch.total_BX) + (own_BMD * name_MD).sum(1)
        kind_GD = _by_row(self.kind_in, batch.kind_count_GC) * self.kind_code(batch.kind_code_G)
        # in fp32: sums of many
        return volume_BD.float().index_add(0, batch.kind_owner_G, kind_GD.float())

    def _names(self, name_MW: Tensor | None) -> Tensor:
        """[M, D] what a modality's name, or its place in the order, adds to all that is of it."""
        if name_MW is None:
            return self.by_order
        by_name_MD: Tensor = self.by_name(F.normalize(name_MW, dim=-1))
        return by_name_MD

    def _tokens(self, batch: Batch, event_ED: Tensor, worth_TS: Tensor) -> Tensor:
        """[T, D] event tokens: the mean of a token's events, and how often and how recently they occur."""
        token_E = batch.entry_token_R[batch.entry_E]
        shown_E = (token_E >= 0).nonzero().squeeze(1)
        # summed in fp32: to hundreds of events bf16 cannot add one more
        sum_TD = event_ED.new_zeros(len(worth_TS), self.width, dtype=torch.float32)
        sum_TD = sum_TD.index_add(0, token_E[shown_E], event_ED[shown_E].float())
        token_TD: Tensor = sum_TD / worth_TS[:, -1:] + _by_row(self.worth_in, worth_TS.log1p())
        return token_TD.to(event_ED.dtype)

    def _events(self, batch: Batch, text_UW: Tensor, name_MD: Tensor) -> Tensor:
        """z^(evt) [E, D] of Eq. 1. What depends on the text alone is computed once per distinct text, not per event."""
        h_UD = _by_row(self.text_in, text_UW)
        if self.feature_in is not None:
            h_ED = h_UD[batch.text_E] + _by_row(self.feature_in, batch.feature_EF)
            return self._adapted(h_ED, batch.modality_E, name_MD)
        # a text is of one modality
        modality_U = batch.modality_E.new_zeros(len(h_UD)).index_put((batch.text_E,), batch.modality_E)
        return self._adapted(h_UD, modality_U, name_MD)[batch.text_E]

    def _adapted(self, h_RD: Tensor, modality_R: Tensor, name_MD: Tensor) -> Tensor:
        """[R, D] through the adapter of all modalities, or of each row's own."""
        if self.named:
            return _by_row(self.event[0], h_RD + name_MD[modality_R])
        z_RD: Tensor = h_RD.new_zeros(h_RD.shape)
        for m, adapter in enumerate(self.event):
            rows = (modality_R == m).nonzero().squeeze(1)
            if len(rows):
                z_m = _by_row(adapter, h_RD[rows]) + name_MD[m]
                z_RD = z_RD.index_copy(0, rows, z_m.to(z_RD.dtype))
        return z_RD

    def _modalities(self, batch: Batch, event_ED: Tensor, name_MD: Tensor) -> Tensor:
        """z^(mdl) [B, M, D]: the mean over *all* the window's events, then the shared modal adapter."""
        users, modalities = batch.count_BMC.shape[:2]
        cell_E = batch.owner_E * modalities + batch.modality_E
        sum_CD = event_ED.new_zeros(users * modalities, self.width, dtype=torch.float32)
        sum_CD = sum_CD.index_add(0, cell_E, event_ED.float())
        number_C = torch.bincount(cell_E, minlength=users * modalities)
        mean_BMD = (sum_CD / number_C.clamp(min=1)[:, None]).view(users, modalities, self.width)
        modal_BMD = self.modal(mean_BMD + self.count_in(batch.count_BMC)) + name_MD
        absent_MD = (self.absent + name_MD) if self.named else self.absent
        token_BMD: Tensor = torch.where(
            number_C.view(users, modalities, 1) > 0, modal_BMD, absent_MD.to(modal_BMD.dtype)
        )
        return token_BMD


def _by_row(module: nn.Module, row_RX: Tensor) -> Tensor:
    """`module` of each row of however many, in whole blocks."""
    out_RX: Tensor = module(F.pad(row_RX, (0, 0, 0, -len(row_RX) % BLOCK)))
    return out_RX[: len(row_RX)]
