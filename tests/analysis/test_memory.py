from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dcn.analysis.memory import peak_bytes, processor, reset_peak


def test_the_peak_sees_what_is_given_back() -> None:
    reset_peak()
    before = peak_bytes()
    if before is None:
        pytest.skip("the system does not tell the memory of a process")
    torch.ones(16 * 2**20)  # 64 MiB, freed at once
    after = peak_bytes()
    assert after is not None
    assert 60 * 2**20 < after - before < 200 * 2**20
    reset_peak()
    assert (peak_bytes() or 0) < after


def test_freed_memory_is_kept() -> None:
    """In a process of its own, as it changes how memory is treated for good."""
    if not sys.platform.startswith("linux"):
        pytest.skip("for glibc only")
    code = """
import resource, torch
from dcn.analysis.memory import keep_freed_memory
done = keep_freed_memory()
faults = []
for _ in range(12):
    x = torch.ones(16 * 2**20)
    y = x + 1
    z = y + x
    del x, y, z
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(done, faults[-1] - faults[-4])
"""
    done, faults = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    if done != "True":
        pytest.skip("the C library is not glibc")
    # Nine blocks of 64 MiB, mapped afresh, are 147,456 pages of 4 KiB. The first rounds find where blocks fit.
    assert int(faults) < 147_456 // 2


def test_the_processor_has_a_name() -> None:
    assert processor()
