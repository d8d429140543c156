"""fp32 masters of bf16 weights: the model computes in bf16, the optimiser adds its small steps in fp32."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Masters:
    """What the optimiser steps on: fp32 copies of a model's bf16 parameters, and its fp32 parameters themselves."""

    def __init__(self, model: nn.Module) -> None:
        own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.parameters: list[Tensor] = [p if p.dtype == torch.float32 else p.detach().float() for p in own]
        self.copied = [(p, master) for p, master in zip(own, self.parameters, strict=True) if p is not master]

    def collect(self) -> None:
        """Move the gradients of the bf16 parameters to their masters."""
        for parameter, master in self.copied:
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model, and drop all gradients."""
        for parameter, master in self.copied:
            parameter.copy_(master)
        for master in self.parameters:
            master.grad = None
