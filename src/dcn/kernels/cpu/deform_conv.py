"""Deformable convolution in one, two or three dimensions on the CPU: callers of ``csrc/deform_conv*.cpp``.

Shapes, with ``n`` spatial axes, ``K`` kernel taps, ``G`` offset groups: input ``[N, C, *size]``, offset
``[N, n*G*K, *out]``, weight ``[O, C/g, *kernel]``, mask ``[N, G*K, *out]``. float32 and float64 are computed as such;
float16 and bfloat16 are read and written, coordinates and sums are float32.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from dcn.kernels.cpu import _library

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_MAX_PIXELS = 2**29  # locations in an image are 32-bit numbers
_Triple = ctypes.c_int64 * 3


class _Call(ctypes.Structure):
    """``DcnDeformConv`` of ``csrc/deform_conv.h``."""

    _fields_ = (
        *[
            (name, ctypes.c_void_p)
            for name in (
                *("input", "offset", "mask", "weight", "bias", "grad_output"),
                *("output", "grad_input", "grad_offset", "grad_weight", "grad_mask"),
            )
        ],
        *[(name, ctypes.c_int64) for name in ("batch", "channels", "outputs", "groups", "offset_groups", "axes")],
        *[(name, _Triple) for name in ("size", "out", "kernel", "stride", "padding", "dilation")],
        *[(name, _Triple) for name in ("input_step", "offset_step", "mask_step", "output_step")],
        *[(name, ctypes.c_int64) for name in ("dtype", "offset_dtype", "mask_dtype", "v1", "threads")],
    )


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
    if prod(input.shape[2:]) >= _MAX_PIXELS:
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
    call = _describe(input, offset, weight, mask, stride, padding, dilation, boundary)
    call.output, call.output_step = output.data_ptr(), _steps(output)
    call.bias = 0 if bias is None else bias.data_ptr()
    status = _library.library().dcn_deform_conv_forward(ctypes.byref(call))
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
    wanted; the others are None. The same bits come out for any number of threads.
    """
    grad_output, input, offset, weight = _dense(grad_output), _dense(input), _dense(offset), weight.contiguous()
    mask = None if mask is None else _dense(mask)
    grads = [
        torch.empty_like(tensor) if tensor is not None and need else None
        for tensor, need in zip((input, offset, weight, mask), needs, strict=True)
    ]
    call = _describe(input, offset, weight, mask, stride, padding, dilation, boundary)
    call.grad_output, call.output_step = grad_output.data_ptr(), _steps(grad_output)
    pointers = [0 if grad is None else grad.data_ptr() for grad in grads]
    call.grad_input, call.grad_offset, call.grad_weight, call.grad_mask = pointers
    status = _library.library().dcn_deform_conv_backward(ctypes.byref(call))
    if status:
        _library.check(status, _name("backward", input, weight))
    return grads[0], grads[1], grads[2], grads[3]


def _describe(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> _Call:
    kernel, axes = weight.shape[2:], len(stride)
    call = _Call(
        input=input.data_ptr(),
        offset=offset.data_ptr(),
        weight=weight.data_ptr(),
        mask=0 if mask is None else mask.data_ptr(),
        batch=input.shape[0],
        channels=input.shape[1],
        outputs=weight.shape[0],
        groups=input.shape[1] // weight.shape[1],
        offset_groups=offset.shape[1] // (axes * prod(kernel)),
        axes=axes,
        size=_triple(input.shape[2:], 1),
        out=_triple(offset.shape[2:], 1),
        kernel=_triple(kernel, 1),
        stride=_triple(stride, 1),
        padding=_triple(padding, 0),
        dilation=_triple(dilation, 1),
        input_step=_steps(input),
        offset_step=_steps(offset),
        mask_step=_triple((), 0) if mask is None else _steps(mask),
        dtype=_DTYPES[input.dtype],
        offset_dtype=_DTYPES[offset.dtype],
        mask_dtype=0 if mask is None else _DTYPES[mask.dtype],
        v1=boundary == "v1",
        threads=_library.threads(),
    )
    return call


def _triple(values: Sequence[int], missing: int) -> ctypes.Array[ctypes.c_int64]:
    """Values for the axes z, y, x; the leading axes that are not there get ``missing``."""
    return _array((*(missing,) * (3 - len(values)), *values))


@functools.lru_cache(4096)
def _array(values: tuple[int, int, int]) -> ctypes.Array[ctypes.c_int64]:
    """Kept: to make ten of them took a third of a small call. They are copied into the call and never written."""
    return _Triple(*values)


def _channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and tensor.movedim(1, -1).is_contiguous()


def _dense(tensor: Tensor) -> Tensor:
    """The tensor itself when it is contiguous or channels-last, else a contiguous copy."""
    return tensor if _channels_last(tensor) else tensor.contiguous()


def _steps(tensor: Tensor) -> ctypes.Array[ctypes.c_int64]:
    """Elements from image to image, channel to channel and location to location of a dense tensor."""
    channels, locations = tensor.shape[1], prod(tensor.shape[2:])
    inner = (1, channels) if _channels_last(tensor) else (locations, 1)
    return _array((channels * locations, *inner))


def _new(like: Tensor, channels: int, out: Sequence[int]) -> Tensor:
    """An empty ``[N, channels, *out]`` in the memory format of ``like``."""
    if _channels_last(like):
        return like.new_empty((like.shape[0], *out, channels)).movedim(-1, 1)
    return like.new_empty((like.shape[0], channels, *out))


def _name(direction: str, input: Tensor, weight: Tensor) -> str:
    shapes = f"input {list(input.shape)}, weight {list(weight.shape)}"
    return f"deformable convolution, {direction}, of {shapes}, {input.dtype}"
