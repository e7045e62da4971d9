"""The kernels of the RoI poolings and of suppression compile for cards that are not here, without spilling registers.

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

from tests.kernels.triton import compile_roi

ROOT = os.path.dirname(os.path.abspath(__file__)).removesuffix(os.path.join("tests", "kernels", "triton"))
# Stores to local memory: 0 to 4 are seen, depending on the compiler; a spilled tile would be dozens.
FEW_WORDS = 4
# sm_90 adds four neighbouring channels with one instruction.
VECTOR_ADDITION = {80: False, 90: True}


@pytest.mark.parametrize("generation", VECTOR_ADDITION, ids=["sm_80", "sm_90"])
def test_pooling_compiles_for_a_card_that_is_not_here(generation: int) -> None:
    forward, backward = _reports(generation, "bfloat16", "align", "align-backward")
    assert max(forward["spills"], backward["spills"]) <= FEW_WORDS
    assert forward["wide_loads"] > 0
    assert any("F32x4" in name for name in backward["atomics"]) == VECTOR_ADDITION[generation]


def test_the_other_kernels_compile() -> None:
    reports = _reports(80, "bfloat16", "parts", "parts-backward", "max", "max-backward", "bits", "scan", "soft")
    assert max(actual["spills"] for actual in reports) <= FEW_WORDS
    # The walk of suppression waits for other threads where words are handed on, nowhere else.
    assert reports[5]["barriers"] == 1


def test_kernels_in_float32_compile() -> None:
    reports = _reports(90, "float32", "align", "parts-backward")
    assert max(actual["spills"] for actual in reports) <= FEW_WORDS


def _reports(generation: int, kind: str, *names: str) -> list[dict[str, Any]]:
    if importlib.util.find_spec("triton.backends.nvidia") is None:
        pytest.skip("this Triton has no compiler for NVIDIA cards")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([ROOT, environment.get("PYTHONPATH", "")])
    command = [sys.executable, compile_roi.__file__, str(generation), kind, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    return reports
