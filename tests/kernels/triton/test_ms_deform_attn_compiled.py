"""The kernels of multi-scale deformable attention compile for cards that are not here, without spilling registers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.kernels.triton import compile_ms_deform_attn
from tests.kernels.triton.test_roi_compiled import FEW_WORDS, ROOT, VECTOR_ADDITION


@pytest.mark.parametrize("generation", VECTOR_ADDITION, ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
def test_they_compile_for_a_card_that_is_not_here(kind: str, generation: int) -> None:
    forward, backward = _reports(generation, kind, "forward", "backward")
    assert max(forward["spills"], backward["spills"]) <= FEW_WORDS
    assert min(forward["wide_loads"], backward["wide_loads"]) > 0
    assert any("F32x4" in name for name in backward["atomics"]) == VECTOR_ADDITION[generation]


def _reports(generation: int, kind: str, *names: str) -> list[dict[str, Any]]:
    if importlib.util.find_spec("triton.backends.nvidia") is None:
        pytest.skip("this Triton has no compiler for NVIDIA cards")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([ROOT, environment.get("PYTHONPATH", "")])
    command = [sys.executable, compile_ms_deform_attn.__file__, str(generation), kind, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    return reports
