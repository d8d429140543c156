"""From states of the backbone to embeddings: projected, centred, of unit length.

Shapes: B users, N questions each, D width of the backbone, O = 128 width of an embedding.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tower = Literal["anchor", "answer"]
TOWERS: tuple[Tower, ...] = ("anchor", "answer")


class Centre(nn.Module):
    """Takes the mean out of one tower's projections and brings each dimension to unit variance.

    At the start all users' states have a cosine of .99. In training the mean is each question's own over the users of
    the batch, so that what is left is what tells users apart, not what the question is about; at inference it is the
    running mean of all questions, so that a user's embedding depends on that user and query alone.
    """

    EPSILON = 1e-5
    """Variances below this are no longer brought to one."""

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x_BNO: Tensor) -> Tensor:
        """By the running statistics."""
        return (x_BNO - self.mean) * (self.variance + self.EPSILON).rsqrt()

    def among(self, x_BNO: Tensor) -> Tensor:
        """By the batch's own: the users answer, column by column, the questions of a whole batch."""
        centred_BNO = x_BNO - x_BNO.mean(0)
        return centred_BNO * (centred_BNO.square().mean((0, 1)) + self.EPSILON).rsqrt()

    @torch.no_grad()
    def observe(self, x_BNO: Tensor) -> None:
        """Move the running statistics towards a whole batch's."""
        self.mean.lerp_(x_BNO.mean((0, 1)), self.momentum)
        self.variance.lerp_((x_BNO - x_BNO.mean(0)).square().mean((0, 1)), self.momentum)


class Head(nn.Module):
    """The projection head that both towers share: linear, centred (each tower by itself), unit length.

    The linear part looks at one state; centring in training looks at the whole batch. So training takes the two apart:
    a batch may be projected in chunks and on many ranks, and is centred as one.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=False)
        self.anchor = Centre(out)
        self.answer = Centre(out)

    def forward(self, state_BND: Tensor, tower: Tower) -> Tensor:
        """[B, N, D] final states of a tower -> [B, N, O] embeddings, by the running statistics."""
        return F.normalize(self._centre(tower)(self.project(state_BND)), dim=-1)

    def project(self, state_BND: Tensor) -> Tensor:
        """[B, N, D] final states -> [B, N, O] projections, not yet centred."""
        out_BNO: Tensor = self.linear(state_BND.to(self.linear.weight.dtype))
        return out_BNO.to(torch.promote_types(out_BNO.dtype, torch.float32))

    def among(self, projection_BNO: Tensor, tower: Tower) -> Tensor:
        """[B, N, O] projections of a whole batch -> embeddings, by the batch's own statistics."""
        return F.normalize(self._centre(tower).among(projection_BNO), dim=-1)

    def observe(self, projection_BNO: Tensor, tower: Tower) -> None:
        """Move the running statistics of a tower towards a whole batch's."""
        self._centre(tower).observe(projection_BNO)

    def _centre(self, tower: Tower) -> Centre:
        return self.anchor if tower == "anchor" else self.answer
