"""Deformable convolution in one, two and three dimensions: what a call means, and its checks.

Dai et al., "Deformable Convolutional Networks" (equation 2), and Zhu et al., "Deformable ConvNets v2" (equation 1: the
mask). With ``K`` kernel taps, tap ``k`` of output location ``p`` reads the input at
``p * stride - padding + k * dilation + offset``, by multilinear interpolation. Offsets are in pixels of the input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from dcn import checks
from dcn.kernels.cpu import deform_conv as cpu
from dcn.kernels.reference import deform_conv as reference
from dcn.kernels.triton import deform_conv as triton
from dcn.memory_format import channels_last, new_map
from dcn.ops._backends import Table, check_name, choose, recordable
from dcn.ops._contract import Fold, Gradients, remembers
from dcn.ops._operator import Operator

BACKENDS: Table = (("triton", triton), ("cpu", cpu), ("reference", reference))
BOUNDARIES = ("v1", "v2")
Geometry = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Stride, padding and dilation, one number per spatial axis each."""
_LAYOUTS = {1: "[N, C, W]", 2: "[N, C, H, W]", 3: "[N, C, D, H, W]"}


class _Tensors(NamedTuple):
    input: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    mask: Tensor | None


class _Options(NamedTuple):
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    boundary: str
    backend: str | None

    def rule(self) -> tuple[Sequence[int], Sequence[int], Sequence[int], str]:
        """The same without the backend."""
        return self.stride, self.padding, self.dilation, self.boundary


class _Needs(NamedTuple):
    input: bool
    offset: bool
    weight: bool
    bias: bool
    mask: bool


def output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Locations of the output per axis, ``floor((size + 2*padding - dilation*(kernel-1) - 1) / stride) + 1``."""
    return tuple(
        (s + 2 * p - d * (k - 1) - 1) // step + 1
        for s, k, step, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def _check_channels(input: Sequence[int], weight: Sequence[int]) -> None:
    channels, per_group = input[1], weight[1]
    if min(weight) < 1:
        raise ValueError(f"weight: expected at least 1 along every axis, got shape {list(weight)}")
    if channels % per_group or weight[0] % (channels // per_group or 1):
        raise ValueError(
            f"weight: expected [O, C/groups, *kernel] with {channels} input channels divisible by weight.shape[1] "
            f"and O by groups, got shape {list(weight)}; weight.shape[1] must be input channels / groups"
        )


def _check_output(input: Sequence[int], kernel: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    if min(input[1:]) < 1:
        raise ValueError(f"input: expected at least 1 channel and 1 pixel, got shape {list(input)}")
    stride, padding, dilation = geometry
    out = output_size(input[2:], kernel, stride, padding, dilation)
    if min(out) < 1:
        raise ValueError(
            f"input: expected a size that gives at least one output location, got size {list(input[2:])} with "
            f"kernel {list(kernel)}, stride {list(stride)}, padding {list(padding)}, dilation {list(dilation)} "
            f"(output {list(out)}); enlarge the input or the padding"
        )
    return out


def _check_offset(input: Sequence[int], offset: Sequence[int], taps: int, out: tuple[int, ...]) -> int:
    """The number of offset groups."""
    n = len(out)
    offset_groups = offset[1] // (n * taps)
    if offset_groups < 1 or offset[1] % (n * taps) or input[1] % offset_groups:
        raise ValueError(
            f"offset: expected {n}*G*K channels with K = {taps} taps and G a divisor of the {input[1]} "
            f"input channels (G*{n * taps}), got {offset[1]} channels"
        )
    checks.sizes("offset", offset, (input[0], offset[1], *out), "batch of input, channels, size of the output")
    return offset_groups


def _check_sizes(
    input: Sequence[int],
    offset: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    mask: Sequence[int] | None,
    geometry: Geometry,
) -> tuple[int, ...]:
    """Refuse shapes that do not fit each other; the size of the output otherwise."""
    n = len(geometry[0])
    for name, value, layout in (
        ("input", input, _LAYOUTS[n]),
        ("offset", offset, f"[N, {n}*G*K, *output size]"),
        ("weight", weight, "[O, C/groups, *kernel]"),
    ):
        checks.axes(name, value, n + 2, layout)
    kernel = weight[2:]
    out = _check_output(input, kernel, geometry)
    _check_channels(input, weight)
    offset_groups = _check_offset(input, offset, prod(kernel), out)
    if bias is not None:
        checks.sizes("bias", bias, (weight[0],), "one value per output channel")
    if mask is not None:
        checks.sizes("mask", mask, (input[0], offset_groups * prod(kernel), *out), "batch, G*K, size of the output")
    return out


_check_sizes_once = functools.lru_cache(4096)(_check_sizes)
"""The same; remembers the calls that fit. A tiny convolution takes about as long as these checks."""


def _check(tensors: _Tensors, options: _Options) -> tuple[int, ...]:
    """Refuse every wrong call; the size of the output otherwise."""
    input, offset, weight, bias, mask = tensors
    checks.floating("input", input)
    for name, other in (("offset", offset), ("weight", weight), ("bias", bias), ("mask", mask)):
        if other is not None:
            checks.beside(name, other, input, or_float32=name == "offset")
    geometry = (options.stride, options.padding, options.dilation)
    sizes = (input.shape, offset.shape, weight.shape, None if bias is None else bias.shape)
    # Lists of torch's schema cannot be looked up.
    check = _check_sizes_once if type(options.stride) is tuple and remembers(input) else _check_sizes
    return check(*sizes, None if mask is None else mask.shape, geometry)


def _forward(tensors: _Tensors, options: _Options) -> Tensor:
    rule = options.rule()
    return laid_out(choose(BACKENDS, options.backend, *tensors, *rule).forward(*tensors, *rule), tensors.input)


def _reference_forward(tensors: _Tensors, options: _Options) -> Tensor:
    return laid_out(reference.forward(*tensors, *options.rule()), tensors.input)


def laid_out(output: Tensor, input: Tensor) -> Tensor:
    """The output in the memory format of the input."""
    if not channels_last(input) or output.movedim(1, -1).is_contiguous():
        return output
    return output.movedim(1, -1).contiguous().movedim(-1, 1)


def bias_gradient(grad: Tensor, bias: Tensor | None, needed: bool) -> Tensor | None:
    """Summed in float32 at least: a half-precision sum over a large map would lose most of it."""
    if bias is None or not needed:
        return None
    axes = [0, *range(2, grad.ndim)]
    # One single sum would be split among the threads and depend on their number; two sums are computed whole.
    grad = grad if grad.shape[1] > 1 else grad.expand(-1, 2, *grad.shape[2:])
    sums = grad.sum(axes, dtype=torch.float32 if grad.dtype in checks.HALVES else grad.dtype)
    return sums[: bias.shape[0]].to(bias.dtype)


Kernel = Callable[..., tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]]


def _gradients(kernel: Kernel, grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    input, offset, weight, bias, mask = tensors
    by_input = by_offset = by_weight = by_mask = None
    if needs.input or needs.offset or needs.weight or needs.mask:
        sampled = (needs.input, needs.offset, needs.weight, needs.mask)
        by_input, by_offset, by_weight, by_mask = kernel(grad, input, offset, weight, mask, *options.rule(), sampled)
    return by_input, by_offset, by_weight, bias_gradient(grad, bias, needs.bias), by_mask


def _backward(grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    module = choose(BACKENDS, options.backend, *tensors, *options.rule())
    return _gradients(module.backward, grad, tensors, options, needs)


def _reference_backward(grad: Tensor, tensors: _Tensors, options: _Options, needs: _Needs) -> Gradients:
    return _gradients(reference.backward, grad, tensors, options, needs)


def _fake(tensors: _Tensors, options: _Options) -> Tensor:
    input, outputs = tensors.input, tensors.weight.shape[0]
    return new_map(input, (input.shape[0], outputs, *_check(tensors, options)), channels_last(input))


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


def _recordable(tensors: _Tensors, options: _Options) -> bool:
    return recordable(BACKENDS, options.backend, *tensors, *options.rule())


_OPERATOR = Operator(
    name="deform_conv",
    tensors=_Tensors,
    options=_Options,
    needs=_Needs,
    forward=_forward,
    reference_forward=_reference_forward,
    backward=_backward,
    reference_backward=_reference_backward,
    fake=_fake,
    fold=_fold,
    autocast=_autocast,
    recordable=_recordable,
)


def _check_tensor(name: str, value: Tensor | None) -> None:
    if value is not None or name not in ("bias", "mask"):
        checks.tensor(name, value)


def _call(
    n: int,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: tuple[int | Sequence[int], int | Sequence[int], int | Sequence[int]],
    boundary: str,
    backend: str | None,
) -> Tensor:
    stride = checks.int_tuple("stride", geometry[0], n, 1)
    padding = checks.int_tuple("padding", geometry[1], n, 0)
    dilation = checks.int_tuple("dilation", geometry[2], n, 1)
    checks.choice("boundary", boundary, BOUNDARIES)
    check_name(BACKENDS, backend)
    for name, value in (("input", input), ("offset", offset), ("weight", weight), ("bias", bias), ("mask", mask)):
        if type(value) is not Tensor or value.layout != torch.strided or value.is_nested:
            _check_tensor(name, value)
    options = _Options(stride, padding, dilation, boundary, backend)
    tensors = _OPERATOR.cast(_Tensors(input, offset, weight, bias, mask))
    _check(tensors, options)
    return _OPERATOR(tensors, options)


def deform_conv1d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
    *,
    boundary: str = "v2",
    backend: str | None = None,
) -> Tensor:
    """Deformable convolution of sequences: :func:`deform_conv2d` with one spatial axis.

    Args:
        input: ``[N, C, W]``.
        offset: ``[N, G*K, W_out]``, in pixels.
        weight: ``[O, C/groups, K]``.
        bias: ``[O]`` or ``None``.
        stride: step of the output locations, at least 1.
        padding: as in :func:`deform_conv2d`.
        dilation: distance of the taps, at least 1.
        mask: ``[N, G*K, W_out]`` or ``None``.
        boundary: ``"v2"`` or ``"v1"``.
        backend: ``None``, or the name of the one to use.

    Returns:
        ``[N, O, W_out]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return _call(1, input, offset, weight, bias, mask, (stride, padding, dilation), boundary, backend)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
    *,
    boundary: str = "v2",
    backend: str | None = None,
) -> Tensor:
    """Deformable convolution, modulated where ``mask`` is given.

    Dai et al. 2017, equation 2; Zhu et al. 2019, equation 1. The number of groups follows from ``weight``, that of
    the offset groups ``G`` from ``offset``; input channel ``c`` is moved by offset group ``c // (C/G)``. ``K = kh*kw``.

    Positions may be anything, NaN and infinity too: a tap outside the map contributes 0 and has zero gradients.

    Args:
        input: ``[N, C, H, W]``, float16, bfloat16, float32 or float64. ``N`` may be 0.
        offset: ``[N, 2*G*K, H_out, W_out]``, pixels of the input; per group and tap first ``y``, then ``x``. Has the
            type of ``input``, or float32 beside half-precision data. Positions are computed in float32 (float64).
        weight: ``[O, C/groups, kh, kw]``.
        bias: ``[O]`` or ``None``.
        stride: step of the output locations, an int or ``(y, x)``, at least 1.
        padding: shift of the first location beyond the upper left corner, at least 0; nothing is really padded.
        dilation: distance of neighbouring taps, at least 1.
        mask: ``[N, G*K, H_out, W_out]`` factors of the samples, or ``None`` for 1.
        boundary: ``"v2"``, the rule of the modulated operator and of most libraries: the map fades to 0 within one
            pixel beyond its edge; offset gradients are 0 from -1 and from H (W) on. ``"v1"``, the rule of the original
            operator of 2017: 0 unless ``0 <= y < H`` and ``0 <= x < W``, constant beyond the last pixel centre.
        backend: ``None`` takes the fastest that can compute the call (or ``$DCN_BACKEND``); a name insists on it.

    Returns:
        ``[N, O, H_out, W_out]`` in the type and memory format of ``input``;
        ``H_out = (H + 2*pad - dilation*(kh-1) - 1) // stride + 1``.

    Raises:
        ValueError: an argument does not fit (the message names it, what was expected and what came), or the backend
            that was named cannot compute the call.
    """
    return _call(2, input, offset, weight, bias, mask, (stride, padding, dilation), boundary, backend)


def deform_conv3d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
    *,
    boundary: str = "v2",
    backend: str | None = None,
) -> Tensor:
    """Deformable convolution of volumes or clips: :func:`deform_conv2d` with three spatial axes, trilinear.

    Args:
        input: ``[N, C, D, H, W]``.
        offset: ``[N, 3*G*K, D_out, H_out, W_out]``, in pixels; per group and tap ``z``, ``y``, ``x``.
        weight: ``[O, C/groups, kd, kh, kw]``.
        bias: ``[O]`` or ``None``.
        stride: an int or ``(z, y, x)``, at least 1.
        padding: as in :func:`deform_conv2d`.
        dilation: distance of neighbouring taps, at least 1.
        mask: ``[N, G*K, D_out, H_out, W_out]`` or ``None``.
        boundary: ``"v2"`` or ``"v1"``.
        backend: ``None``, or the name of the one to use.

    Returns:
        ``[N, O, D_out, H_out, W_out]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return _call(3, input, offset, weight, bias, mask, (stride, padding, dilation), boundary, backend)
