"""Transposed deformable convolution: is it the adjoint that the name says, and does that hold for awkward calls?

The function is asked as ``(input, offset, weight, bias, stride, padding, output_padding, groups, dilation, mask)``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d

from dcn.conformance.implementations import Function
from dcn.conformance.rules import Rule, verdict
from dcn.ops import deform_conv2d

_NAME = "deform_conv_transpose2d"


def _tensors(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Input, offset, weight, bias, mask of a layer of two groups and two offset groups, stride 1, padding 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    mask = normal(2, 18, 5, 6).sigmoid()
    return normal(2, 4, 5, 6), 1.5 * normal(2, 36, 5, 6), normal(4, 3, 3, 3), normal(6), mask


def _difference(first: Tensor, second: Tensor) -> float:
    return (first.double() - second.double()).abs().max().item() if first.numel() else 0.0


def _zero_offset(function: Function) -> tuple[str, bool]:
    x, offset, weight, bias, _ = _tensors()
    errors = []
    for stride, padding, more, dilation in ((1, 0, 0, 1), (2, 1, 1, 1), (3, 2, 0, 2)):
        geometry = tuple((number, number) for number in (stride, padding, more))
        plain = conv_transpose2d(x, weight, bias, stride, padding, more, 2, dilation)
        actual = function(x, torch.zeros_like(offset), weight, bias, *geometry, 2, (dilation, dilation), None)
        errors.append(_difference(actual, plain))
    return verdict(errors, 1e-9)


def _spread(function: Function, tensors: tuple[Tensor, ...]) -> Tensor:
    x, offset, weight, bias, mask = tensors
    return function(x, offset, weight, bias, (1, 1), (1, 1), (0, 0), 2, (1, 1), mask)


def _adjoint_of(tensors: tuple[Tensor, ...]) -> Tensor:
    """The output as the gradient of deformable convolution by its input."""
    x, offset, weight, bias, mask = (t.detach().double() for t in tensors)
    y = x.new_zeros(2, 6, 5, 6).requires_grad_()
    output = deform_conv2d(y, offset, weight, None, 1, 1, 1, mask, backend="reference")
    return torch.autograd.grad(output, y, x)[0] + bias.view(1, -1, 1, 1)


def _adjoint(function: Function) -> tuple[str, bool]:
    tensors = _tensors()
    return verdict([_difference(_spread(function, tensors), _adjoint_of(tensors))], 1e-9)


def _gradients(function: Function) -> tuple[str, bool]:
    leaves = tuple(t.requires_grad_() for t in _tensors(1))
    ok = torch.autograd.gradcheck(lambda *t: _spread(function, t), leaves, fast_mode=True)
    return "gradcheck passes", ok


def _second(function: Function) -> tuple[str, bool]:
    leaves = tuple(t.requires_grad_() for t in _tensors(2))
    ok = torch.autograd.gradgradcheck(lambda *t: _spread(function, t), leaves, fast_mode=True)
    return "gradgradcheck passes", ok


def _nan(function: Function) -> tuple[str, bool]:
    x, offset, weight, bias, mask = _tensors()
    offset[:, :, 2] = torch.nan
    x[:, :, 2] = 0
    actual = _spread(function, (x, offset, weight, bias, mask))
    ok = bool(actual.isfinite().all())
    return ("adds nothing" if ok else "spreads NaN"), ok


def _edge(function: Function) -> tuple[str, bool]:
    """Offset gradients of a value that lands exactly at -1."""
    offset = torch.full((1, 2, 1, 1), -1.0, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    output = function(one, offset, one, None, (1, 1), (0, 0), (0, 0), 1, (1, 1), None)
    output.sum().backward()
    slope = [] if offset.grad is None else offset.grad.flatten().tolist()
    return f"slope {slope}", slope == [0.0, 0.0]


def _empty(function: Function) -> tuple[str, bool]:
    x, offset, weight, bias, mask = _tensors()
    actual = _spread(function, (x[:0], offset[:0], weight, bias, mask[:0]))
    return f"shape {list(actual.shape)}", list(actual.shape) == [0, 6, 5, 6]


def _half(function: Function) -> tuple[str, bool]:
    tensors = _tensors(dtype=torch.bfloat16)
    actual, expected = _spread(function, tensors), _adjoint_of(tensors)
    return verdict([_difference(actual, expected) / expected.abs().max().item()], 2e-2)


RULES = (
    Rule(f"{_NAME} zero offset", _zero_offset, "equals conv_transpose2d", _NAME),
    Rule(f"{_NAME} adjoint", _adjoint, "is the adjoint of deform_conv2d, with groups and mask", _NAME),
    Rule(f"{_NAME} gradients", _gradients, "by all tensors", _NAME),
    Rule(f"{_NAME} second derivative", _second, "by all tensors", _NAME),
    Rule(f"{_NAME} NaN offset", _nan, "adds nothing", _NAME),
    Rule(f"{_NAME} at -1", _edge, "offset gradients of a location exactly at -1", _NAME),
    Rule(f"{_NAME} empty batch", _empty, "a batch of no images", _NAME),
    Rule(f"{_NAME} bfloat16", _half, "half precision", _NAME),
)
