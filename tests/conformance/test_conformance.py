"""The conformance suite: our backends follow every rule, and departures are seen."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn.conformance import RULES, examine, findings, load
from dcn.conformance.__main__ import main
from dcn.ops import deform_conv2d
from tests.ops.cases import BACKENDS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", ["v1", "v2"])
def test_our_backends_follow_every_rule(boundary: str, backend: str, rule: Any) -> None:
    finding = examine(load(f"dcn:{backend}:{boundary}"), rule)
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
    found = {f.rule: f for f in findings("tests.conformance.test_conformance:ends_the_process")}
    assert list(found) == [rule.name for rule in RULES]
    assert found["NaN offset"].answer == "ends the process (exit code 7)"
    # Looking at values, as that function does, also keeps it from being compiled.
    assert {f.rule for f in found.values() if not f.ok} == {"torch.compile", "NaN offset"}


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


@pytest.mark.parametrize("name", ["nothing", "no.such.module:function", "dcn.ops:no_such_function"])
def test_unknown_implementation(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--implementation", name]) == 2
    assert capsys.readouterr().err.startswith("--implementation: ")


def test_dcn_needs_a_known_backend() -> None:
    rule = RULES[0]
    finding = examine(load("dcn:abacus"), rule)
    assert not finding.ok
    assert "backend" in finding.answer
    assert torch.is_grad_enabled()
