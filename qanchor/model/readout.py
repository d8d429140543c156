"""A scenario's readout: a line through all that is known of a user, written along a fixed direction of its embedding.

128 numbers cannot hold a tally of 800 and a reading of 300, and what a scenario needs of them its labels know. So
beside its soft prompt a scenario learns a linear function of all of it for each class (one for two classes), and its
embedding is u = normalise(m + s d): m is what it was mixed of, less what that had along the direction d, at unit
length, and s the readout, of unit variance. Every number of the embedding has a share of s, so that a probe finds it
before all that a single number says. `training/readouts.py` fits it, docs/decisions/0010-readout.md has what it brings.

Shapes: B users, N suffixes, Y numbers that are read, C readouts of the scenario that has most, R = 2 + C rows of a
readout, O = 128.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from qanchor.probe.linear import REACH

MEAN, SCALE, LINES = 0, 1, 2
"""Rows of a readout: what to subtract, what to multiply with, and from here on its lines."""


def written(readout_BNRY: Tensor, known_BNY: Tensor, embedding_BNO: Tensor) -> Tensor:
    """[B, N, O] unit-length embeddings with what the readouts read.

    Suffixes with fewer readouts than others have lines of zeros, and keep what they hold in their directions.
    """
    line_BNCY = readout_BNRY[..., LINES:, :]
    if not line_BNCY.shape[-2]:
        return embedding_BNO
    with torch.autocast(known_BNY.device.type, enabled=False):
        standard_BNY = (known_BNY.float() - readout_BNRY[..., MEAN, :]) * readout_BNRY[..., SCALE, :]
        read_BNC = (line_BNCY @ standard_BNY.clamp(-REACH, REACH)[..., None])[..., 0]
        direction_CO = directions(read_BNC.shape[-1], embedding_BNO.shape[-1]).to(read_BNC)
        used_BNC = (line_BNCY != 0).any(-1).to(read_BNC)
        held_BNC = embedding_BNO.float() @ direction_CO.T * used_BNC
        rest_BNO = F.normalize(embedding_BNO.float() - held_BNC @ direction_CO, dim=-1)
        unit_BNO: Tensor = F.normalize(rest_BNO + (read_BNC * used_BNC) @ direction_CO, dim=-1)
        return unit_BNO


def directions(lines: int, width: int) -> Tensor:
    """[C, O] orthonormal: the first cosines, of which the first is all numbers alike."""
    place_O, wave_C1 = torch.arange(width) + 0.5, torch.arange(lines)[:, None]
    cosine_CO = torch.cos(math.pi * wave_C1 * place_O / width)
    return F.normalize(cosine_CO, dim=-1)
