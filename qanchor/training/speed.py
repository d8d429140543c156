"""How fast this machine multiplies: what MFU (the share of it that a run makes use of) is measured against."""

from __future__ import annotations

import functools
import time

import torch

SECONDS = 0.2
SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices: large enough that nothing but products counts."""


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of two square matrices: the best of as many as a fraction of a second allows."""
    side = SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + SECONDS
    while time.perf_counter() < end or not best:
        start = time.perf_counter()
        left @ right
        settle(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def settle(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
