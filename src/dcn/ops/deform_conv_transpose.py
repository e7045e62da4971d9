"""Transposed deformable convolution in one, two and three dimensions: what a call means, and its checks.

It is the adjoint of :func:`dcn.ops.deform_conv2d`, as ``conv_transpose2d`` is that of ``conv2d``: every input pixel
spreads its values over the output, one share per kernel tap, at ``p * stride - padding + k * dilation + offset``, split
among the neighbouring pixels with the weights of multilinear interpolation. So its forward is the gradient by the input
of deformable convolution, and its gradients are a deformable convolution of the output's gradient and the gradients of
that: all are computed by the kernels of deformable convolution, on every backend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dcn import checks
from dcn.kernels.reference import deform_conv as reference
from dcn.memory_format import channels_last, new_map
from dcn.ops._backends import check_name, choose
from dcn.ops._contract import Fold, Gradients
from dcn.ops._operator import Operator
from dcn.ops.deform_conv import BACKENDS, BOUNDARIES, bias_gradient, laid_out

_LAYOUTS = {1: "[N, C, W]", 2: "[N, C, H, W]", 3: "[N, C, D, H, W]"}
_Numbers = int | Sequence[int]


class _Tensors(NamedTuple):
    input: Tensor
    offset: Tensor
    weight: Tensor  # [g, C/g, O/g, *kernel]: the number of groups is part of its shape
    bias: Tensor | None
    mask: Tensor | None


class _Options(NamedTuple):
    stride: Sequence[int]
    padding: Sequence[int]
    output_padding: Sequence[int]
    dilation: Sequence[int]
    boundary: str
    backend: str | None

    def rule(self) -> tuple[Sequence[int], Sequence[int], Sequence[int], str]:
        """What the kernels of deformable convolution are told."""
        return self.stride, self.padding, self.dilation, self.boundary


class _Needs(NamedTuple):
    input: bool
    offset: bool
    weight: bool
    bias: bool
    mask: bool


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Pixels of the output per axis, ``(size-1)*stride - 2*padding + dilation*(kernel-1) + output_padding + 1``."""
    return tuple(
        (s - 1) * step - 2 * p + d * (k - 1) + more + 1
        for s, k, step, p, more, d in zip(size, kernel, stride, padding, output_padding, dilation, strict=True)
    )


def _check_output(input: Tensor, weight: Tensor, options: _Options) -> tuple[int, ...]:
    if min(input.shape[1:]) < 1:
        raise ValueError(f"input: expected at least 1 channel and 1 pixel, got shape {list(input.shape)}")
    if min(weight.shape) < 1:
        raise ValueError(f"weight: expected at least 1 along every axis, got shape {list(weight.shape)}")
    groups, per_group, *_ = weight.shape
    if input.shape[1] != groups * per_group:
        raise ValueError(
            f"weight: expected [C, O/groups, *kernel] with C = {input.shape[1]}, the channels of input, "
            f"got {groups * per_group} channels in {groups} groups"
        )
    steps = zip(options.output_padding, options.stride, options.dilation, strict=True)
    if any(more >= max(stride, dilation) for more, stride, dilation in steps):
        raise ValueError(
            f"output_padding: expected less than stride {list(options.stride)} or dilation {list(options.dilation)}, "
            f"got {list(options.output_padding)}"
        )
    kernel, geometry = weight.shape[3:], (options.stride, options.padding, options.output_padding, options.dilation)
    out = output_size(input.shape[2:], kernel, *geometry)
    if min(out) < 1:
        raise ValueError(
            f"input: expected a size that gives at least one output pixel, got size {list(input.shape[2:])} with "
            f"kernel {list(kernel)}, stride {list(options.stride)}, padding {list(options.padding)} "
            f"(output {list(out)}); enlarge the input or lessen the padding"
        )
    return out


def _check(tensors: _Tensors, options: _Options) -> tuple[int, ...]:
    """Refuse every wrong call; the shape of the output otherwise."""
    input, offset, weight, bias, mask = tensors
    n = len(options.stride)
    checks.ndim("input", input, n + 2, _LAYOUTS[n])
    checks.ndim("offset", offset, n + 2, f"[N, {n}*G*K, *size of the input]")
    checks.ndim("weight", weight, n + 3, "[groups, C/groups, O/groups, *kernel]")
    checks.floating("input", input)
    for name, other in (("offset", offset), ("weight", weight), ("bias", bias), ("mask", mask)):
        if other is not None:
            checks.tensor(name, other)
            checks.same_dtype(name, other, input, or_float32=name == "offset")
            checks.same_device(name, other, input)
    out = _check_output(input, weight, options)
    outputs, taps = weight.shape[0] * weight.shape[2], prod(weight.shape[3:])
    batch, size = input.shape[0], input.shape[2:]
    groups = offset.shape[1] // (n * taps)
    if groups < 1 or offset.shape[1] % (n * taps) or outputs % groups:
        raise ValueError(
            f"offset: expected {n}*G*K channels with K = {taps} taps and G a divisor of the {outputs} output channels "
            f"(G*{n * taps}), got {offset.shape[1]} channels"
        )
    checks.shape("offset", offset, (batch, offset.shape[1], *size), "batch of input, channels, size of the input")
    if bias is not None:
        checks.shape("bias", bias, (outputs,), "one value per output channel")
    if mask is not None:
        checks.shape("mask", mask, (batch, groups * taps, *size), "batch, G*K, size of the input")
    return batch, outputs, *out


def _empty(input: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty map in type and memory format of ``input``."""
    return new_map(input, shape, channels_last(input))


def _fake(tensors: _Tensors, options: _Options) -> Tensor:
    return _empty(tensors.input, _check(tensors, options))


def _spread(module: Any, like: Tensor, tensors: _Tensors, options: _Options) -> Tensor:
    """The output: the gradient of deformable convolution by its input, a map as ``like``, which nobody reads."""
    input, offset, weight, bias, mask = tensors
    only_input = (True, False, False, False)
    call = (input, like, offset, weight.flatten(0, 1), mask, *options.rule(), only_input)
    output: Tensor = module.backward(*call)[0]
    output = output if bias is None else output + bias.reshape(-1, *[1] * (output.ndim - 2))
    return laid_out(output, input)


def _choose(like: Tensor, tensors: _Tensors, options: _Options) -> Any:
    weight = tensors.weight.flatten(0, 1)
    return choose(BACKENDS, options.backend, like, tensors.offset, weight, None, tensors.mask, *options.rule())


def _forward(tensors: _Tensors, options: _Options) -> Tensor:
    like = _empty(tensors.input, _check(tensors, options))
    return _spread(_choose(like, tensors, options), like, tensors, options)


def _reference_forward(tensors: _Tensors, options: _Options) -> Tensor:
    return _spread(reference, tensors.input.new_zeros(_check(tensors, options)), tensors, options)


def _gradients(module: Any, grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    input, offset, weight, bias, mask = tensors
    flat = weight.flatten(0, 1)
    by_input = by_offset = by_weight = by_mask = None
    if needs.input:
        by_input = module.forward(grad, offset, flat, None, mask, *options.rule())
    if needs.offset or needs.weight or needs.mask:
        call = (input, grad, offset, flat, mask, *options.rule(), (False, needs.offset, needs.weight, needs.mask))
        _, by_offset, by_weight, by_mask = module.backward(*call)
    if by_weight is not None:
        by_weight = by_weight.reshape(weight.shape)
    return by_input, by_offset, by_weight, bias_gradient(grad, bias, needs.bias), by_mask


def _backward(grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    return _gradients(_choose(grad, tensors, options), grad, tensors, options, needs)


def _reference_backward(grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    return _gradients(reference, grad, tensors, options, needs)


def _fold(own: _Needs) -> Fold:
    """Calls become images of one call; with a weight (or its gradient) of each call's own they become groups of it."""
    if own.weight or own.bias:
        return Fold({"input": 1, "offset": 1, "weight": 0, "bias": 0, "mask": 1}, output=1)
    return Fold({"input": 0, "offset": 0, "mask": 0}, output=0)


def _autocast(tensors: _Tensors, dtype: torch.dtype) -> _Tensors:
    """Data to ``dtype``; offsets stay as they came: half precision cannot hold a coordinate of 1000.3."""
    input, offset, weight, bias, mask = tensors
    if input.dtype == torch.float64:
        return tensors
    if offset.dtype in checks.HALVES and offset.dtype != dtype:
        offset = offset.float()
    bias, mask = (None if tensor is None else tensor.to(dtype) for tensor in (bias, mask))
    return _Tensors(input.to(dtype), offset, weight.to(dtype), bias, mask)


_OPERATOR = Operator(
    name="deform_conv_transpose",
    tensors=_Tensors,
    options=_Options,
    needs=_Needs,
    forward=_forward,
    backward=_backward,
    reference_forward=_reference_forward,
    reference_backward=_reference_backward,
    fake=_fake,
    fold=_fold,
    autocast=_autocast,
)


def _common_groups(
    offset: Tensor, mask: Tensor | None, n: int, taps: int, outputs: int
) -> tuple[Tensor, Tensor | None]:
    """Offset and mask with one number of groups: the output channels of a group share those of a larger one.

    Raises:
        ValueError: the groups of the mask do not divide the output channels.
    """
    if mask is None or offset.ndim != n + 2 or mask.ndim != n + 2:
        return offset, mask
    groups, mask_groups = offset.shape[1] // (n * taps), mask.shape[1] // taps
    if groups < 1 or groups == mask_groups or offset.shape[1] != groups * n * taps:
        return offset, mask
    if mask_groups < 1 or mask.shape[1] != mask_groups * taps or outputs % mask_groups:
        raise ValueError(
            f"mask: expected M*K channels with K = {taps} taps and M a divisor of the {outputs} output channels, "
            f"got {mask.shape[1]} channels"
        )
    common = math.lcm(groups, mask_groups)
    offset = offset.unflatten(1, (groups, n * taps)).repeat_interleave(common // groups, 1).flatten(1, 2)
    return offset, mask.unflatten(1, (mask_groups, taps)).repeat_interleave(common // mask_groups, 1).flatten(1, 2)


def _call(
    n: int,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    geometry: tuple[_Numbers, _Numbers, _Numbers, _Numbers],
    groups: int,
    boundary: str,
    backend: str | None,
) -> Tensor:
    input, offset, weight, bias, mask = tensors
    stride = checks.int_tuple("stride", geometry[0], n, 1)
    padding = checks.int_tuple("padding", geometry[1], n, 0)
    output_padding = checks.int_tuple("output_padding", geometry[2], n, 0)
    dilation = checks.int_tuple("dilation", geometry[3], n, 1)
    checks.whole("groups", groups, 1)
    checks.choice("boundary", boundary, BOUNDARIES)
    check_name(BACKENDS, backend)
    for name, value in (("input", input), ("offset", offset)):
        checks.tensor(name, value)
    checks.ndim("weight", weight, n + 2, "[C, O/groups, *kernel]")
    if weight.shape[0] % groups:
        raise ValueError(f"groups: expected a divisor of the {weight.shape[0]} channels of weight, got {groups}")
    if mask is not None:
        checks.tensor("mask", mask)
    offset, mask = _common_groups(offset, mask, n, prod(weight.shape[2:]) or 1, weight.shape[1] * groups)
    weight = weight.unflatten(0, (groups, -1))
    options = _Options(stride, padding, output_padding, dilation, boundary, backend)
    cast = _OPERATOR.cast(_Tensors(input, offset, weight, bias, mask))
    _check(cast, options)
    return _OPERATOR(cast, options)


def deform_conv_transpose1d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
    *,
    boundary: str = "v2",
    backend: str | None = None,
) -> Tensor:
    """Transposed deformable convolution of sequences: :func:`deform_conv_transpose2d` with one spatial axis.

    Args:
        input: ``[N, C, W]``.
        offset: ``[N, G*K, W]``, in pixels of the output.
        weight: ``[C, O/groups, K]``.
        bias: ``[O]`` or ``None``.
        stride: as in :func:`deform_conv_transpose2d`, as are the following.
        padding: see there.
        output_padding: see there.
        groups: see there.
        dilation: see there.
        mask: ``[N, M*K, W]`` or ``None``.
        boundary: ``"v2"`` or ``"v1"``.
        backend: ``None``, or the name of the one to use.

    Returns:
        ``[N, O, W_out]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    tensors, geometry = (input, offset, weight, bias, mask), (stride, padding, output_padding, dilation)
    return _call(1, tensors, geometry, groups, boundary, backend)


def deform_conv_transpose2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
    *,
    boundary: str = "v2",
    backend: str | None = None,
) -> Tensor:
    """Transposed deformable convolution: ``conv_transpose2d`` whose taps move, modulated where ``mask`` is given.

    Input pixel ``(a, b)`` and tap ``(i, j)`` add ``mask * sum_c weight[c, o, i, j] * input[c, a, b]`` to output channel
    ``o`` at ``y = a*stride - padding + i*dilation + offset_y`` and ``x`` likewise, split among the four pixels around
    with the weights of bilinear interpolation; shares of pixels outside the output are dropped. It is the adjoint of
    :func:`deform_conv2d` with the same offsets, mask and weight; with zero offsets it is ``conv_transpose2d``.
    Arguments have the order of that function, with ``offset`` second.

    Args:
        input: ``[N, C, H, W]``, float16, bfloat16, float32 or float64.
        offset: ``[N, 2*G*K, H, W]``, pixels of the output, at the *input's* pixels; per group and tap first ``y``, then
            ``x``. ``G`` divides the *output* channels: channel ``o`` is moved by group ``o // (O/G)``. Has the type of
            ``input``, or float32 beside half-precision data.
        weight: ``[C, O/groups, kh, kw]``, as ``nn.ConvTranspose2d`` has it.
        bias: ``[O]`` or ``None``.
        stride: distance of neighbouring input pixels in the output, an int or ``(y, x)``, at least 1.
        padding: shift of the first location to the upper left, and pixels cut off at both ends, at least 0.
        output_padding: rows and columns more at the lower right, less than stride or dilation.
        groups: of channels that are convolved on their own; divides ``C`` and ``O``.
        dilation: distance of neighbouring taps, at least 1.
        mask: ``[N, M*K, H, W]`` factors, or ``None`` for 1. ``M`` may differ from ``G``.
        boundary: the rule of :func:`deform_conv2d` of which this is the adjoint, ``"v2"`` or ``"v1"``.
        backend: ``None`` takes the fastest that can compute the call (or ``$DCN_BACKEND``); a name insists on it.

    Returns:
        ``[N, O, H_out, W_out]`` in the type and memory format of ``input``;
        ``H_out = (H-1)*stride - 2*padding + dilation*(kh-1) + output_padding + 1``.

    Raises:
        ValueError: an argument does not fit (the message names it, what was expected and what it got), or the backend
            that was named cannot compute the call.
    """
    tensors, geometry = (input, offset, weight, bias, mask), (stride, padding, output_padding, dilation)
    return _call(2, tensors, geometry, groups, boundary, backend)


def deform_conv_transpose3d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
    *,
    boundary: str = "v2",
    backend: str | None = None,
) -> Tensor:
    """Transposed deformable convolution of volumes: :func:`deform_conv_transpose2d` with three spatial axes.

    Args:
        input: ``[N, C, D, H, W]``.
        offset: ``[N, 3*G*K, D, H, W]``, in pixels of the output; per group and tap ``z``, ``y``, ``x``.
        weight: ``[C, O/groups, kd, kh, kw]``.
        bias: ``[O]`` or ``None``.
        stride: as in :func:`deform_conv_transpose2d`, as are the following.
        padding: see there.
        output_padding: see there.
        groups: see there.
        dilation: see there.
        mask: ``[N, M*K, D, H, W]`` or ``None``.
        boundary: ``"v2"`` or ``"v1"``.
        backend: ``None``, or the name of the one to use.

    Returns:
        ``[N, O, D_out, H_out, W_out]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    tensors, geometry = (input, offset, weight, bias, mask), (stride, padding, output_padding, dilation)
    return _call(3, tensors, geometry, groups, boundary, backend)
