"""fp32 masters of bf16 weights: the model computes in bf16, the optimiser adds its small steps in fp32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qanchor.training.ranks import Ranks


class Masters:
    """What the optimiser steps on: fp32 copies of a model's bf16 parameters, and its other parameters themselves."""

    def __init__(self, model: nn.Module) -> None:
        own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.parameters: list[Tensor] = [p.detach().float() if p.dtype == torch.bfloat16 else p for p in own]
        self.copied = [(p, master) for p, master in zip(own, self.parameters, strict=True) if p is not master]

    def collect(self) -> None:
        """Add the gradients of the bf16 parameters to their masters'."""
        for parameter, master in self.copied:
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad + gradient
                parameter.grad = None

    def sum(self, ranks: Ranks) -> None:
        """Add up the gradients of all ranks. A parameter that no rank has used keeps none: the optimiser passes it."""
        used = torch.tensor([p.grad is not None for p in self.parameters], device=self.parameters[0].device).int()
        ranks.sum([used])
        for parameter, ranks_that_used in zip(self.parameters, used.tolist(), strict=True):
            if ranks_that_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        ranks.sum([parameter.grad for parameter in self.parameters if parameter.grad is not None])

    def gradient(self) -> tuple[float, float]:
        """Mean and largest |g| over all numbers of the gradient (Figure 11)."""
        used = [parameter for parameter in self.parameters if parameter.numel()]  # a soft prompt may have no vectors
        sizes = [parameter.grad.abs() for parameter in used if parameter.grad is not None]
        total, count = torch.stack([size.sum() for size in sizes]).sum(), sum(size.numel() for size in sizes)
        return total.item() / count, torch.stack([size.max() for size in sizes]).max().item()

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model, and drop all gradients."""
        for parameter, master in self.copied:
            parameter.copy_(master)
        for master in self.parameters:
            master.grad = None
