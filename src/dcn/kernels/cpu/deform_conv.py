"""Deformable convolution in one, two or three dimensions on the CPU: callers of ``csrc/deform_conv*.cpp``.

Shapes, with ``n`` spatial axes, ``K`` kernel taps, ``G`` offset groups: input ``[N, C, *size]``, offset
``[N, n*G*K, *out]``, weight ``[O, C/g, *kernel]``, mask ``[N, G*K, *out]``. float32 and float64 are computed as such;
float16 and bfloat16 are read and written, coordinates and sums are float32.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.memory_format import channels_last, new_map

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_NO_STEPS = (0, 0, 0)
_MAX_PIXELS = 2**29  # locations in an image are 32-bit numbers
_POINTERS, _FIELDS = struct.Struct("=11Q"), struct.Struct("=6q18q12q5q")
"""``DcnDeformConv`` of ``csrc/deform_conv.h``: pointers, then sizes, geometry, steps, flags."""


def unsupported(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> str | None:
    """Why this call cannot run here, or None when it can."""
    if input.device.type != "cpu":
        return f"the tensors are on {input.device}, the CPU kernels need them on the CPU"
    if input.dtype not in _DTYPES:
        return f"dtype {input.dtype} is not one of float32, float64, float16, bfloat16"
    if input.numel() >= _MAX_PIXELS and prod(input.shape[2:]) >= _MAX_PIXELS:
        return f"an image of {prod(input.shape[2:])} locations is too large, the limit is {_MAX_PIXELS}"
    return _library.reason()


def forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> Tensor:
    """``[N, O, *out]`` in the type and the memory format of ``input``: weight * mask * sampled input, plus bias."""
    input, offset, weight = _dense(input), _dense(offset), weight.contiguous()
    mask = None if mask is None else _dense(mask)
    bias = None if bias is None else bias.contiguous()
    output = _new(input, weight.shape[0], offset.shape[2:])
    pointers = (*map(_address, (input, offset, mask, weight, bias)), 0, output.data_ptr(), 0, 0, 0, 0)
    fields = _describe(input, offset, weight, mask, output, stride, padding, dilation, boundary)
    status = _library.library().dcn_deform_conv_forward(_POINTERS.pack(*pointers) + fields)
    if status:
        _library.check(status, _name("forward", input, weight))
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
    needs: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, offset, weight and mask, each in the shape and type of what it belongs to.

    They have the memory format of their tensors too, but that of the weight is contiguous. ``needs`` says which are
    computed; the others are None. The same bits come out for any number of threads.
    """
    grad_output, input, offset, weight = _dense(grad_output), _dense(input), _dense(offset), weight.contiguous()
    mask = None if mask is None else _dense(mask)
    grads = [
        torch.empty_like(tensor) if tensor is not None and need else None
        for tensor, need in zip((input, offset, weight, mask), needs, strict=True)
    ]
    fields = _describe(input, offset, weight, mask, grad_output, stride, padding, dilation, boundary)
    pointers = (*map(_address, (input, offset, mask, weight)), 0, grad_output.data_ptr(), 0, *map(_address, grads))
    status = _library.library().dcn_deform_conv_backward(_POINTERS.pack(*pointers) + fields)
    if status:
        _library.check(status, _name("backward", input, weight))
    return grads[0], grads[1], grads[2], grads[3]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _describe(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    output: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> bytes:
    """The fields of the call behind its pointers; ``output`` may be its gradient."""
    steps = (_steps(input), _steps(offset), _NO_STEPS if mask is None else _steps(mask), _steps(output))
    types = (_DTYPES[input.dtype], _DTYPES[offset.dtype], 0 if mask is None else _DTYPES[mask.dtype])
    rule = (tuple(stride), tuple(padding), tuple(dilation), boundary == "v1")
    return _fields(input.shape, offset.shape, weight.shape, steps, types, rule, _library.threads())


@functools.lru_cache(4096)
def _fields(
    input: Sequence[int],
    offset: Sequence[int],
    weight: Sequence[int],
    steps: tuple[tuple[int, int, int], ...],
    types: tuple[int, int, int],
    rule: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool],
    threads: int,
) -> bytes:
    """Kept: to pack them took a third of a small call."""
    batch, channels, *size = input
    outputs, per_group, *kernel = weight
    stride, padding, dilation, v1 = rule
    axes = len(size)
    ones, zeros = (1,) * (3 - axes), (0,) * (3 - axes)  # of the leading axes that are not there
    return _FIELDS.pack(
        *(batch, channels, outputs, channels // per_group, offset[1] // (axes * prod(kernel)), axes),
        *(*ones, *size, *ones, *offset[2:], *ones, *kernel),
        *(*ones, *stride, *zeros, *padding, *ones, *dilation),
        *(number for step in steps for number in step),
        *(*types, v1, threads),
    )


def _dense(tensor: Tensor) -> Tensor:
    """The tensor itself when it is contiguous or channels-last, else a contiguous copy."""
    return tensor if channels_last(tensor) else tensor.contiguous()


def _steps(tensor: Tensor) -> tuple[int, int, int]:
    """Elements from image to image, channel to channel and location to location of a dense tensor."""
    channels, locations = tensor.shape[1], prod(tensor.shape[2:])
    if channels_last(tensor):
        return channels * locations, 1, channels
    return channels * locations, locations, 1


def _new(like: Tensor, channels: int, out: Sequence[int]) -> Tensor:
    """An empty ``[N, channels, *out]`` in the memory format of ``like``."""
    return new_map(like, (like.shape[0], channels, *out), channels_last(like))


def _name(direction: str, input: Tensor, weight: Tensor) -> str:
    shapes = f"input {list(input.shape)}, weight {list(weight.shape)}"
    return f"deformable convolution, {direction}, of {shapes}, {input.dtype}"
