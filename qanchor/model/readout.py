"""A scenario's readout: all that is known of a user, read by lines and by a forest, written along fixed directions.

128 numbers cannot hold a tally of thousands and a reading of three hundred, and what a scenario needs of them its
labels know. So beside its soft prompt a scenario learns for each class (one for two classes) a linear function of all
of it, and a forest over its amounts and words; its embedding is u = normalise(3 c + m / 20 + s d): c is a direction
alike for all, m is what it was mixed of, less what that had along c and d, at unit length, and s what line and forest
say together, of unit variance. Every number of the embedding has a share of s, and m is small beside it, so that a
probe finds s before all that single numbers say of its few labels; and c keeps the length from depending on s, which
would tell every number what s is once more. `training/readouts.py` fits it; docs/decisions/0010-readout.md,
0011-forest.md and 0012-values.md have what it brings.

Shapes: B users, N suffixes, Y numbers of a tally, Z numbers that a suffix has of its own (what is learned, what its
query reads), V = Z + those of a tally that lines read, C classes read for the scenario that has most, R = 2 + C rows,
T trees, K = 2^depth - 1 cuts and L = 2^depth leaves of each, O = 128.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from qanchor.model.batch import FOR_FORESTS, FOR_LINES
from qanchor.probe.linear import REACH

MEAN, SCALE, LINES = 0, 1, 2
"""Rows of lines: what to subtract, what to multiply with, and from here on one for each class."""
CLASSES = 16
"""Scenarios of more have no readout: an embedding has better uses for its numbers."""
COMMON, MIXED = 3.0, 0.05
"""How much of c and of m there is beside s."""
DEPTH = 4
"""Cuts between a tree's root and each of its leaves."""
CUTS, LEAVES = 2**DEPTH - 1, 2**DEPTH


@dataclass(frozen=True)
class Readout:
    """Of one scenario, or with leading dimensions of users and suffixes, of many."""

    line_RV: Tensor
    feature_CTK: Tensor
    """Which amount a cut looks at; cut k leads to 2k + 1 where that is at most its threshold, else to 2k + 2."""
    threshold_CTK: Tensor
    leaf_CTL: Tensor
    """Log odds; those of a class's trees are added up."""

    @classmethod
    def none(cls) -> Readout:
        """Nothing is read, and nothing written."""
        cuts = torch.zeros(0, 0, CUTS)
        return cls(torch.zeros(LINES, 0), cuts.long(), cuts, torch.zeros(0, 0, LEAVES))

    @classmethod
    def stack(cls, each: Sequence[Readout], device: torch.device) -> Readout:
        """[1, N] of N scenarios; who has fewer classes or trees than others has some that say nothing."""
        stacks = ([getattr(one, field.name).to(device) for one in each] for field in fields(cls))
        return cls(*(torch.stack(alike(stack))[None] for stack in stacks))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Readout:
        """From `tensors`."""
        return cls(tensors["lines"], tensors["features"].long(), tensors["thresholds"], tensors["leaves"])

    def along(self, width: int) -> Tensor:
        """[R, O] the directions of one scenario's embeddings that it writes along: c, and one a class; or none."""
        lines = self.line_RV.shape[-2] - LINES
        return torch.cat([common(width)[None], directions(lines, width)]) if lines else torch.zeros(0, width)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""
        forest = {"features": self.feature_CTK.short(), "thresholds": self.threshold_CTK, "leaves": self.leaf_CTL}
        return {"lines": self.line_RV, **forest}

    def take(self, row_BN: Tensor) -> Readout:
        """Of [1, N], each user's own suffixes."""
        return Readout(*(getattr(self, field.name)[0, row_BN] for field in fields(self)))


def written(readout: Readout, tally_BY: Tensor, own_BNZ: Tensor, embedding_BNO: Tensor) -> Tensor:
    """[B, N, O] unit-length embeddings with what the readouts ([1 or B, N]) read.

    Suffixes that read fewer classes than others have lines and leaves of zeros, and keep what they hold in their
    directions; those that read none are left as they are.
    """
    line_BNCV = readout.line_RV[..., LINES:, :]
    if not line_BNCV.shape[-2]:
        return embedding_BNO
    with torch.autocast(own_BNZ.device.type, enabled=False):
        said_BNC = said(readout, tally_BY, own_BNZ)
        direction_CO = directions(said_BNC.shape[-1], embedding_BNO.shape[-1]).to(said_BNC)
        common_O = common(embedding_BNO.shape[-1]).to(said_BNC)
        used_BNC = ((line_BNCV != 0).any(-1) | (readout.leaf_CTL != 0).flatten(-2).any(-1)).to(said_BNC)
        plain_BNO = embedding_BNO.float()
        held_BNO = (plain_BNO @ direction_CO.T * used_BNC) @ direction_CO
        held_BNO = held_BNO + (plain_BNO @ common_O)[..., None] * common_O
        mixed_BNO = F.normalize(plain_BNO - held_BNO, dim=-1)
        full_BNO = COMMON * common_O + MIXED * mixed_BNO + (said_BNC * used_BNC) @ direction_CO
        return torch.where(used_BNC.any(-1, keepdim=True), F.normalize(full_BNO, dim=-1), plain_BNO)


def said(readout: Readout, tally_BY: Tensor, own_BNZ: Tensor) -> Tensor:
    """[B, N, C] what lines and forest say together."""
    return _by_lines(readout.line_RV, tally_BY, own_BNZ) + by_forest(readout, tally_BY)


def _by_lines(line_BNRV: Tensor, tally_BY: Tensor, own_BNZ: Tensor) -> Tensor:
    """[B, N, C] of standardised values, cut at REACH."""
    shared_BNY = tally_BY[:, None, FOR_LINES].expand(-1, own_BNZ.shape[1], -1)
    known_BNV = torch.cat([shared_BNY, own_BNZ], -1).float()
    standard_BNV = ((known_BNV - line_BNRV[..., MEAN, :]) * line_BNRV[..., SCALE, :]).clamp(-REACH, REACH)
    said_BNC: Tensor = (line_BNRV[..., LINES:, :] @ standard_BNV[..., None])[..., 0]
    return said_BNC


def by_forest(readout: Readout, tally_BY: Tensor) -> Tensor:
    """[B, N, C] the sum of the leaves that each user falls into."""
    amount_BA = tally_BY[:, FOR_FORESTS].float()
    users = len(amount_BA)
    feature_BNCTK, threshold_BNCTK, leaf_BNCTL = (
        tensor.expand(users, *tensor.shape[1:])
        for tensor in (readout.feature_CTK, readout.threshold_CTK, readout.leaf_CTL)
    )
    at_BNCT1 = feature_BNCTK.new_zeros(*feature_BNCTK.shape[:-1], 1)
    for _ in range(DEPTH):
        feature_BX = feature_BNCTK.gather(-1, at_BNCT1).flatten(1)
        amount_BNCT1 = amount_BA.gather(1, feature_BX).view(at_BNCT1.shape)
        at_BNCT1 = 2 * at_BNCT1 + 1 + (amount_BNCT1 > threshold_BNCTK.gather(-1, at_BNCT1)).long()
    said_BNC: Tensor = leaf_BNCTL.gather(-1, at_BNCT1 - CUTS)[..., 0].sum(-1)
    return said_BNC


def alike(each: Sequence[Tensor]) -> list[Tensor]:
    """Zeros behind each dimension of those that are smaller than others."""
    most = [max(sizes) for sizes in zip(*(one.shape for one in each), strict=True)]
    paddings = ([(0, m - s) for m, s in zip(most, one.shape, strict=True)] for one in each)
    return [F.pad(one, [n for pair in reversed(own) for n in pair]) for one, own in zip(each, paddings, strict=True)]


def directions(lines: int, width: int) -> Tensor:
    """[C, O] orthonormal, one a class: the first cosines, of which the first is all numbers alike."""
    return _cosines(torch.arange(lines), width)


def common(width: int) -> Tensor:
    """[O] the direction that all embeddings with a readout have in common: the last cosine."""
    return _cosines(torch.tensor([width - 1]), width)[0]


def _cosines(wave_C: Tensor, width: int) -> Tensor:
    place_O = torch.arange(width) + 0.5
    return F.normalize(torch.cos(math.pi * wave_C[:, None] * place_O / width), dim=-1)
