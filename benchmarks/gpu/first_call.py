"""How long the first call in a process takes: with nothing compiled yet, and with the cache of an earlier process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.gpu import Row, Settings
from benchmarks.gpu.measure import machine

_PROGRAM = """
import sys, time
import torch
from dcn.ops import deform_conv2d
device = sys.argv[1]
x = torch.randn(1, 8, 6, 7, device=device, requires_grad=True)
offset = torch.zeros(1, 2, 6, 7, device=device, requires_grad=True)
weight = torch.randn(8, 8, 1, 1, device=device, requires_grad=True)
start = time.perf_counter()
output = deform_conv2d(x, offset, weight, backend="triton")
output.sum().item()
between = time.perf_counter()
output.backward(torch.ones_like(output))
weight.grad.sum().item()
print(between - start, time.perf_counter() - between)
"""


def rows(settings: Settings) -> Iterator[Row]:
    """Seconds of the first forward and the first backward call, by state of the cache."""
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("empty", "filled"):
            command = [sys.executable, "-c", _PROGRAM, settings.device.type]
            environment = {**os.environ, "TRITON_CACHE_DIR": folder}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            forward, backward = map(float, done.stdout.split())
            row: Row = {**machine(settings.device), "suite": "first_call", "cache": cache}
            yield row | {"forward_s": round(forward, 2), "backward_s": round(backward, 2)}


def summary(measured: list[Row]) -> list[str]:
    """Both states in a line each."""
    return [f"cache {row['cache']}: forward {row['forward_s']} s, backward {row['backward_s']} s" for row in measured]
