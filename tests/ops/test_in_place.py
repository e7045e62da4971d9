"""What an operator returns can be changed in place, as ``nn.ReLU(inplace=True)`` does, also where gradients are needed.

Autograd refuses that for outputs that are views, such as a permuted buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn import ops
from tests.ops.test_odd_tensors import OPERATORS

BACKENDS = ("cpu", "reference")


def _convolution(name: str, axes: int) -> Callable[..., tuple[Tensor, Tensor]]:
    function = getattr(ops, name)
    size = (4,) * axes

    def call(channels_last: bool, **options: Any) -> tuple[Tensor, Tensor]:
        x = _in_memory(torch.randn(2, 4, *size), channels_last)
        offset = torch.randn(2, axes * 3**axes, *size)
        return x, function(x, offset, torch.randn(4, 4, *(3,) * axes), padding=1, **options)

    return call


def _listed(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    operator, make = OPERATORS[name]

    def call(channels_last: bool, **options: Any) -> tuple[Tensor, Tensor]:
        x, *others = make()
        x = _in_memory(x, channels_last)
        return x, operator(x, *others, **options)

    return call


def _dcnv3(channels_last: bool, **options: Any) -> tuple[Tensor, Tensor]:
    x = _in_memory(torch.randn(2, 4, 4, 4), channels_last)
    mask = torch.rand(2, 4, 4, 9)
    return x, ops.dcnv3(x, torch.randn(2, 4, 4, 18), mask, kernel_size=3, padding=1, groups=1, **options)


def _attention(channels_last: bool, **options: Any) -> tuple[Tensor, Tensor]:
    value = _in_memory(torch.randn(1, 6, 1, 4), channels_last)
    levels = (torch.tensor([[2, 3]]), torch.tensor([0]))
    samples = (torch.rand(1, 2, 1, 1, 2, 2), torch.rand(1, 2, 1, 1, 2))
    return value, ops.ms_deform_attn(value, *levels, *samples, **options)


def _in_memory(x: Tensor, channels_last: bool) -> Tensor:
    x = x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x
    return x.requires_grad_()


CALLS: dict[str, Callable[..., Any]] = {
    **{name: _listed(name) for name in OPERATORS},
    **{f"deform_conv{axes}d": _convolution(f"deform_conv{axes}d", axes) for axes in (1, 3)},
    **{f"deform_conv_transpose{axes}d": _convolution(f"deform_conv_transpose{axes}d", axes) for axes in (1, 2, 3)},
    "dcnv3": _dcnv3,
    "ms_deform_attn": _attention,
}


@pytest.mark.parametrize("registered", [False, True], ids=["eager", "registered"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_the_output_can_be_changed_in_place(name: str, backend: str, channels_last: bool, registered: bool) -> None:
    gradients = []
    for change in (torch.relu, torch.relu_):
        torch.manual_seed(0)
        with torch.profiler.profile() if registered else torch.enable_grad():  # the profiler needs names of operators
            x, output = CALLS[name](channels_last, backend=backend)
        change(output).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
