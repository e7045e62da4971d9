"""What this card can do, measured in the same process: the floor under every time."""

from __future__ import annotations

import functools

import torch

from benchmarks.gpu.timing import interleaved


@functools.cache
def matrix_rate(kind: str, device: torch.device) -> float:
    """Floating-point operations per second of a large matrix product; ``kind`` is a row's dtype, ``tf32`` too."""
    size = 64 if device.type == "cpu" else 8192 if kind in ("float16", "bfloat16") else 4096
    dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
    a, b = torch.randn(2, size, size, device=device, dtype=torch.float32).to(dtype)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if kind == "tf32" else "ieee"
    try:
        times = interleaved({"product": lambda: a @ b}, 10, device)["product"]
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    return 2 * size**3 / (times.median * 1e-6)


@functools.cache
def bandwidth(device: torch.device) -> float:
    """Bytes per second of a large copy, read and written."""
    source = torch.ones(2**16 if device.type == "cpu" else 2**30, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    times = interleaved({"copy": lambda: target.copy_(source)}, 10, device)["copy"]
    return 2 * source.nbytes / (times.median * 1e-6)


def floor(flops: float, moved: float, kind: str, device: torch.device) -> float:
    """Microseconds below which nobody gets: the larger of arithmetic and memory."""
    return max(flops / matrix_rate(kind, device), moved / bandwidth(device)) * 1e6
