"""Under `torch.compile` the Triton kernels stand in the compiler's graphs, forward and backward; no card is needed.

A process of its own traces, because this one may be interpreting.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.kernels.triton import trace_deform_conv

FORWARD = [("dense", ["output_pointer"])]
BACKWARD = [
    ("offset_and_mask", ["grad_mask_pointer", "grad_offset_pointer"]),
    ("count", ["lists_pointer"]),
    ("fill", ["lists_pointer", "unsorted_pointer"]),
    ("settle", ["sorted_pointer"]),
    ("gather", ["grad_input_pointer"]),
    ("dense", ["shares_pointer"]),
    ("add", ["grad_pointer"]),
]
FIXED = "add"  # sums shares of the weight's gradient: its programs do not depend on the size of an image


def _traced(*modes: str, **environment: str) -> dict[str, Any]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    command = [sys.executable, trace_deform_conv.__file__, *modes]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    # Triton could not read a kernel, and torch takes every tensor for changed.
    assert "assuming every input is mutated" not in done.stderr
    actual: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return actual


def test_the_kernels_stand_in_the_graphs_and_change_only_their_results() -> None:
    actual = _traced("static", "dynamic", "reference", "export")
    for mode in ("static", "dynamic"):
        for direction, expected in (("forward", FORWARD), ("backward", BACKWARD)):
            nodes = actual[mode][direction]
            assert [(node.get("kernel"), node.get("changes")) for node in nodes] == expected, (mode, direction)
            assert {node["symbolic"] for node in nodes if node["kernel"] != FIXED} == {mode == "dynamic"}
    assert [node["operator"] for node in actual["reference"]["forward"]] == ["dcn.deform_conv.default"]
    assert [node["operator"] for node in actual["reference"]["backward"]] == ["dcn.deform_conv_backward.default"]
    assert actual["export"] == ["dcn.deform_conv.default"]


def test_the_operator_stays_a_unit_where_the_environment_asks_for_it() -> None:
    actual = _traced("static", DCN_OPAQUE_KERNELS="1")["static"]
    assert [node["operator"] for node in actual["forward"]] == ["dcn.deform_conv.default"]
    assert [node["operator"] for node in actual["backward"]] == ["dcn.deform_conv_backward.default"]
