"""This machine's own matrix-product speed, measured once a process: what MFU is a share of, and what dtype
pays.

No table of devices: a laptop in its power-saving mode, two shared cores and a CPU without bf16 units are all
measured as they are.
"""

from __future__ import annotations

import time
from functools import cache

import torch


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@cache
def _measure(kind: str, index: int, dtype: torch.dtype, size: int, seconds: float, threads: int) -> float:
    device = torch.device(kind, index) if kind == "cuda" else torch.device(kind)
    generator = torch.Generator().manual_seed(0)  # the caller's random state is not touched
    a = torch.randn(size, size, generator=generator).to(device, dtype)
    b = torch.randn(size, size, generator=generator).to(device, dtype)
    out = torch.empty_like(a)
    _wait(device)
    start = time.perf_counter()
    torch.mm(a, b, out=out)
    _wait(device)
    if time.perf_counter() - start > seconds:  # so slow that one product says enough
        return 2 * size**3 / (time.perf_counter() - start)
    best, begun = 0.0, time.perf_counter()
    repeat = 1 if kind == "cpu" else 4
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        for _ in range(repeat):
            torch.mm(a, b, out=out)
        _wait(device)
        best = max(best, repeat * 2 * size**3 / (time.perf_counter() - start))
    return best


def matmul_flops(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    seconds: float = 0.15,
    size: int | None = None,
) -> float:
    """FLOP/s of the best square matrix product seen within `seconds` (2·n³ operations each).

    Example:
        >>> matmul_flops(torch.device("cpu"), seconds=0.01) > 1e8
        True
    """
    size = size or (8192 if device.type == "cuda" else 1024)
    return _measure(device.type, device.index or 0, dtype, size, seconds, torch.get_num_threads())
