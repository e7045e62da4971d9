"""The conformance suite: our backends follow every rule, and departures are seen."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn.conformance import RULES, Rule, examine, findings, load, offered
from dcn.conformance.__main__ import main
from dcn.ops import deform_conv2d
from tests.ops.cases import BACKENDS

# The edge rule is one of deformable convolution; what needs 30 GB is left to `python -m dcn.conformance --large`.
ASKED = [
    pytest.param(boundary, rule, id=f"{boundary}-{rule.name}")
    for rule in RULES
    for boundary in (("v1", "v2") if rule.operator == "deform_conv2d" else ("v2",))
    if not rule.large
]


@pytest.mark.parametrize(("boundary", "rule"), ASKED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_our_backends_follow_every_rule(backend: str, boundary: str, rule: Rule) -> None:
    function = offered(f"dcn:{backend}:{boundary}", rule.operator)
    assert function is not None
    finding = examine(function, rule)
    assert finding.ok, finding.answer
    if rule.name == "boundary":
        assert finding.answer.startswith(boundary)


def ends_the_process(input: Tensor, offset: Tensor, *rest: Any) -> Tensor:
    """Like an implementation that crashes on a NaN offset."""
    if offset.isnan().any():
        os._exit(7)
    weight, bias, stride, padding, dilation, mask = rest
    return deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask, backend="reference")


def swaps_axes(input: Tensor, offset: Tensor, *rest: Any) -> Tensor:
    """Like an implementation that reads offsets as x, y."""
    swapped = offset.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)
    return ends_the_process(input, swapped, *rest)


def test_a_crash_is_an_answer() -> None:
    actual = {f.rule: f for f in findings("tests.conformance.test_conformance:ends_the_process")}
    assert list(actual) == [rule.name for rule in RULES]
    assert actual["NaN offset"].answer == "ends the process (exit code 7)"
    # Looking at values, as that function does, also keeps it from being compiled, exported and vmapped.
    wrong = {f.rule for f in actual.values() if f.ok is False}
    assert wrong == {"torch.compile", "torch.export", "vmap", "NaN offset"}
    assert actual["roi_align values"].answer == "not offered"


def test_wrong_offset_order_is_seen() -> None:
    rules = {rule.name: rule for rule in RULES}
    assert examine(swaps_axes, rules["zero offset"]).ok
    assert not examine(swaps_axes, rules["boundary"]).ok
    assert not examine(swaps_axes, rules["groups"]).ok


def test_onnxruntime_has_no_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--implementation", "onnxruntime", "--json"]) == 1
    answers = {row["rule"]: row for row in json.loads(capsys.readouterr().out)}
    assert answers["boundary"]["answer"].startswith("v2")
    assert answers["groups"]["ok"]
    assert answers["gradient input"]["answer"] == "no gradients"


@pytest.mark.parametrize("name", ["nothing", "mmcv", "no.such.module:function", "dcn.ops:no_such_function"])
def test_unknown_implementation(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--implementation", name]) == 2
    assert capsys.readouterr().err.startswith("--implementation: ")


def test_dcn_needs_a_known_backend() -> None:
    rule = RULES[0]
    finding = examine(load("dcn:abacus"), rule)
    assert not finding.ok
    assert "backend" in finding.answer
    assert torch.is_grad_enabled()
