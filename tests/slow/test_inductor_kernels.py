"""What Inductor writes around our kernels compiles for a card that is not here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.triton.test_compiler_sees_kernels import BACKWARD, FORWARD

ROOT = Path(__file__).parents[2]
MOST = 227 * 1024  # bytes of shared memory of an sm_90


def test_every_launch_that_inductor_makes_compiles() -> None:
    if importlib.util.find_spec("triton.backends.nvidia") is None:
        pytest.skip("this Triton has no compiler for NVIDIA cards")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.triton.inductor_deform_conv"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    actual = json.loads(done.stdout.splitlines()[-1])
    # The compiler may launch what does not depend on each other in another order.
    assert sorted(name for name, _ in actual) == sorted(name for name, _ in (*FORWARD, *BACKWARD))
    assert all(shared <= MOST for _, shared in actual)
