"""The kernels compile for cards that are not here: matrix instructions, wide loads, no spills, shared memory in bounds.

Triton brings its own assembler. The compiler runs in a process of its own, because this one may be interpreting.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.kernels.triton import compile_deform_conv

# Bytes of shared memory a program may have, and the matrix instruction of the generation.
LIMITS = {80: (163 * 1024, "HMMA"), 90: (227 * 1024, "HGMMA")}


@pytest.mark.parametrize("kernel", ["forward", "offset", "input", "weight"])
@pytest.mark.parametrize("generation", LIMITS, ids=["sm_80", "sm_90"])
def test_a_kernel_compiles_for_a_card_that_is_not_here(generation: int, kernel: str) -> None:
    if importlib.util.find_spec("triton.backends.nvidia") is None:
        pytest.skip("this Triton has no compiler for NVIDIA cards")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, compile_deform_conv.__file__, str(generation), kernel]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    most, instruction = LIMITS[generation]
    assert report["shared"] <= most
    assert report["spills"] <= 1  # of a thousand instructions; the large forward tile has every register there is
    assert report["wide_loads"] > 0
    assert instruction in report["instructions"]
    if kernel in ("forward", "weight"):
        assert report["waits"] == 0
    if kernel != "input":
        # Neighbouring samples share corners, and copies past the cache would fetch each of them again.
        assert report["cached_loads"] >= 8
