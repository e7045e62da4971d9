"""The kernels of DCNv3 and DCNv4 compile for cards that are not here, without spilling registers.

Triton brings its own assembler. The compiler runs in a process of its own, because this one may be interpreting.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.kernels.triton import compile_dcnv3

ROOT = os.path.dirname(os.path.abspath(__file__)).removesuffix(os.path.join("tests", "kernels", "triton"))
KERNELS = ("forward", "backward", "forward-softmax", "backward-softmax")


def _reports(generation: int, kind: str) -> dict[str, dict[str, Any]]:
    if importlib.util.find_spec("triton.backends.nvidia") is None:
        pytest.skip("this Triton has no compiler for NVIDIA cards")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([ROOT, environment.get("PYTHONPATH", "")])
    command = [sys.executable, compile_dcnv3.__file__, str(generation), kind, *KERNELS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(KERNELS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(
    ("generation", "kind"), [(90, "bfloat16"), (80, "float32"), (80, "float64")], ids=["sm_90", "sm_80", "float64"]
)
def test_kernels_compile_without_spills(generation: int, kind: str) -> None:
    reports = _reports(generation, kind)
    assert max(report["spills"] for report in reports.values()) == 0
    assert all(report["wide_loads"] > 0 for report in reports.values())
    if kind != "float64":  # there the division of a softmax is made of fused steps
        assert not any(report["fused"] for report in reports.values()), "positions would round differently"
    # sm_90 adds four neighbouring channels with one instruction.
    assert any("F32x4" in name for name in reports["backward"]["atomics"]) == (generation == 90)
