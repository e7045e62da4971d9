"""torch's counter of operations beside the plain convolution of the same shape."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dcn.nn import DeformConv2d
from dcn.ops import deform_conv1d, deform_conv2d, deform_conv3d, deform_conv_transpose2d


def _count(call: Any, *, backward: bool = False) -> int:
    with FlopCounterMode(display=False) as counter:
        result = call()
        if backward:
            result.sum().backward()
    return int(counter.get_total_flops())


CONVOLUTIONS = {
    1: (deform_conv1d, nn.functional.conv1d),
    2: (deform_conv2d, nn.functional.conv2d),
    3: (deform_conv3d, nn.functional.conv3d),
}


# torch counts the gradient of a grouped weight as if there were one group.
@pytest.mark.parametrize(("backward", "groups"), [(False, 1), (False, 2), (True, 1)])
@pytest.mark.parametrize("axes", CONVOLUTIONS)
def test_a_deformable_convolution_counts_as_the_plain_one(axes: int, backward: bool, groups: int) -> None:
    deformable, plain = CONVOLUTIONS[axes]
    x = torch.rand(2, 8, *(9, 6, 7)[:axes], requires_grad=True)
    weight = torch.rand(6, 8 // groups, *[3] * axes, requires_grad=True)
    expected = plain(x, weight, stride=2, padding=1, groups=groups)
    offset = torch.zeros(2, axes * 3**axes, *expected.shape[2:])
    own = _count(lambda: deformable(x, offset, weight, stride=2, padding=1), backward=backward)
    assert own == _count(lambda: plain(x, weight, stride=2, padding=1, groups=groups), backward=backward) > 0


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_transposed_one_too(backward: bool) -> None:
    x, weight = torch.rand(2, 8, 5, 6, requires_grad=True), torch.rand(8, 3, 4, 4, requires_grad=True)

    def plain() -> Tensor:
        return nn.functional.conv_transpose2d(x, weight, stride=2, padding=1)

    offset = torch.zeros(2, 2 * 16, 5, 6)
    own = _count(lambda: deform_conv_transpose2d(x, offset, weight, stride=2, padding=1), backward=backward)
    assert own == _count(plain, backward=backward) > 0


def test_gradients_that_are_not_needed_do_not_count() -> None:
    x, weight = torch.rand(1, 4, 6, 6), torch.rand(4, 4, 3, 3, requires_grad=True)
    forward = _count(lambda: deform_conv2d(x, torch.zeros(1, 18, 4, 4), weight))
    assert _count(lambda: deform_conv2d(x, torch.zeros(1, 18, 4, 4), weight), backward=True) == 2 * forward


@pytest.mark.parametrize("first", ["dcn.nn", "torch.utils.flop_counter"])
def test_whatever_was_imported_first(first: str) -> None:
    source = str(Path(__file__).parents[2] / "src")
    code = (
        f"import sys; sys.path.insert(0, {source!r}); import {first}\n"
        "import torch, dcn.nn; from torch.utils.flop_counter import FlopCounterMode\n"
        "with FlopCounterMode(display=False) as counter: dcn.nn.DeformConv2d(2, 3, 3)(torch.rand(1, 2, 3, 3))\n"
        "print(counter.get_total_flops())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2 * 18 * (18 + 3)  # the offset branch and the layer, one output location


def test_a_layer_is_its_branch_and_itself() -> None:
    layer, x = DeformConv2d(8, 4, 3, padding=1), torch.rand(2, 8, 9, 10)
    assert _count(lambda: layer(x)) == 2 * 2 * 90 * 8 * 9 * (4 + 18)
