"""From states of the backbone to embeddings: projected, centred, mixed, of unit length.

Shapes: B users, N questions each, D width of the backbone, O = 128 width of an embedding, S streams, Q = S * O.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tower = Literal["anchor", "answer"]
TOWERS: tuple[Tower, ...] = ("anchor", "answer")
STREAMS = (0.3, 1.0, 1.0, 0.1)
"""Weights of what an embedding adds up: what the towers have learned, and as it is read, the user token, what the query
reads and what the prompt reads; each dimension of each at unit variance (docs/decisions/0009-streams.md)."""
PROMPTED = (1.0, 1.0, 1.0, 3.0)
"""How many times as much a tuned scenario's embedding holds of each: more of what its own prompt reads."""


class Fixed(nn.Module):
    """A linear map that is not learned, with orthonormal rows: nothing that passes it can be folded away."""

    weight: Tensor

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.register_buffer("weight", nn.init.orthogonal_(torch.empty(out, width)))

    def forward(self, x_RX: Tensor) -> Tensor:
        """In fp32 whatever the rest computes in: what is told is small beside its mean."""
        with torch.autocast(x_RX.device.type, enabled=False):
            return F.linear(x_RX.float(), self.weight.float())


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
    """The projection head that both towers share: linear, centred (each tower by itself), mixed, unit length.

    The first stream of an embedding is what the head makes of a state; the others are told beside it (`AnchorSeed`), by
    maps that are not learned. Answers have the first alone, and so has a tower without anchor seed.

    The linear part looks at one state; centring in training looks at the whole batch. So training takes the two apart:
    a batch may be projected in chunks and on many ranks, and is centred as one.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=False)
        self.out = out
        self.anchor = Centre(len(STREAMS) * out)
        self.answer = Centre(len(STREAMS) * out)

    def forward(self, projection_BNQ: Tensor, tower: Tower) -> Tensor:
        """[B, N, Q] projections of a tower -> [B, N, O] embeddings, by the running statistics."""
        return self.mix(self.streams(projection_BNQ, tower))

    def streams(self, projection_BNQ: Tensor, tower: Tower) -> Tensor:
        """[B, N, Q] projections -> [B, N, S, O] what an embedding is mixed of, by the running statistics."""
        return self._apart(self._centre(tower)(projection_BNQ))

    def mix(self, stream_BNSO: Tensor, share_BNS: Tensor | None = None) -> Tensor:
        """[B, N, O] embeddings; `share` times the weights of `STREAMS`."""
        weight = stream_BNSO.new_tensor(STREAMS)
        weight = weight if share_BNS is None else weight * share_BNS
        return F.normalize((stream_BNSO * weight[..., None]).sum(-2), dim=-1)

    def project(self, state_BND: Tensor, told_BNO: Tensor | None = None) -> Tensor:
        """[B, N, D] final states, and what is told beside them [B, N, Q - O] -> [B, N, Q], not yet centred."""
        out_BNO: Tensor = self.linear(state_BND.to(self.linear.weight.dtype))
        out_BNO = out_BNO.to(torch.promote_types(out_BNO.dtype, torch.float32))
        if told_BNO is None:
            return F.pad(out_BNO, (0, (len(STREAMS) - 1) * self.out))
        return torch.cat([out_BNO, told_BNO.to(out_BNO.dtype)], -1)

    def among(self, projection_BNQ: Tensor, tower: Tower) -> Tensor:
        """[B, N, Q] projections of a whole batch -> embeddings, by the batch's own statistics."""
        return self.mix(self._apart(self._centre(tower).among(projection_BNQ)))

    def _apart(self, centred_BNQ: Tensor) -> Tensor:
        return centred_BNQ.view(*centred_BNQ.shape[:-1], len(STREAMS), self.out)

    def observe(self, projection_BNO: Tensor, tower: Tower) -> None:
        """Move the running statistics of a tower towards a whole batch's."""
        self._centre(tower).observe(projection_BNO)

    def _centre(self, tower: Tower) -> Centre:
        return self.anchor if tower == "anchor" else self.answer
