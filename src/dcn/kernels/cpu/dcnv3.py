"""DCNv3 and DCNv4 on the CPU: callers of ``csrc/dcnv3.cpp``.

float32 and float64 are computed as such; float16 and bfloat16 are read and written, coordinates and sums are float32.
"""

from __future__ import annotations

import ctypes
import functools
from typing import NamedTuple

import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.kernels.dcnv3_geometry import Geometry, describe

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_MAX_PIXELS = 2**29  # pixels of an image are 32-bit numbers
_Pair = ctypes.c_int64 * 2


class _Call(ctypes.Structure):
    """``DcnV3Call`` of ``csrc/dcnv3.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input", "offset", "mask", "grad_output", "output")),
        *((name, ctypes.c_void_p) for name in ("grad_input", "grad_offset", "grad_mask", "shifts")),
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "channels", "groups", "taps")),
        *((name, _Pair) for name in ("out", "stride", "origin")),
        *((name, ctypes.c_int64) for name in ("offset_row", "offset_group", "mask_row", "mask_group")),
        *((name, ctypes.c_int64) for name in ("dtype", "offset_dtype", "mask_dtype", "softmax", "threads")),
        ("offset_scale", ctypes.c_double),
    )


def unsupported(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> str | None:
    """Why this call cannot run here, or ``None`` when it can."""
    if input.device.type != "cpu":
        return f"the tensors are on {input.device}, the CPU kernels need them on the CPU"
    if input.shape[1] * input.shape[2] >= _MAX_PIXELS:
        return f"an image of {input.shape[1] * input.shape[2]} pixels is too large, the limit is {_MAX_PIXELS}"
    return _library.reason()


def forward(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> Tensor:
    """``[N, Ho, Wo, C]`` in the type of ``input``: the sum over the taps of mask * sampled input."""
    input, offset = input.contiguous(), offset.contiguous()
    mask = None if mask is None else mask.contiguous()
    output = input.new_empty((*offset.shape[:3], input.shape[3]))
    call = _describe(input, offset, mask, geometry)
    call.output = output.data_ptr()
    status = _library.library().dcn_dcnv3_forward(ctypes.byref(call))
    if status:
        _library.check(status, describe("forward", input, offset, geometry))
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: Geometry,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, offset and mask, contiguous, in the type of what they belong to; ``needs`` says which.

    Without ``mask`` the gradient of ``offset`` is that of DCNv4's one tensor. The same bits come out for any number of
    threads.
    """
    grad_output, input, offset = grad_output.contiguous(), input.contiguous(), offset.contiguous()
    mask = None if mask is None else mask.contiguous()
    call = _describe(input, offset, mask, geometry)
    grad_input = torch.empty_like(input) if needs[0] else None
    grad_offset = torch.empty_like(offset) if needs[1] else None
    grad_mask = torch.empty_like(mask) if needs[2] and mask is not None else None
    call.grad_output = grad_output.data_ptr()
    call.grad_input = 0 if grad_input is None else grad_input.data_ptr()
    call.grad_offset = 0 if grad_offset is None else grad_offset.data_ptr()
    call.grad_mask = 0 if grad_mask is None else grad_mask.data_ptr()
    if mask is None and grad_offset is not None:
        call.grad_mask = _fused_mask(grad_offset, geometry)
        grad_offset[..., 3 * geometry.groups * geometry.taps :] = 0
    status = _library.library().dcn_dcnv3_backward(ctypes.byref(call))
    if status:
        _library.check(status, describe("backward", input, offset, geometry))
    return grad_input, grad_offset, grad_mask


def _describe(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> _Call:
    taps, fused, fixed = geometry.taps, mask is None, _fixed(geometry)
    per_group = 3 * taps if fused else 2 * taps
    return _Call(
        input=input.data_ptr(),
        offset=offset.data_ptr(),
        mask=_fused_mask(offset, geometry) if mask is None else mask.data_ptr(),
        shifts=ctypes.addressof(fixed.shifts),
        batch=input.shape[0],
        height=input.shape[1],
        width=input.shape[2],
        channels=input.shape[3],
        groups=geometry.groups,
        taps=taps,
        out=_Pair(*offset.shape[1:3]),
        stride=fixed.stride,
        origin=fixed.origin,
        offset_row=offset.shape[3],
        offset_group=per_group,
        mask_row=offset.shape[3] if mask is None else mask.shape[3],
        mask_group=per_group if fused else taps,
        dtype=_DTYPES[input.dtype],
        offset_dtype=_DTYPES[offset.dtype],
        mask_dtype=_DTYPES[offset.dtype if mask is None else mask.dtype],
        softmax=geometry.softmax,
        threads=_library.threads(),
        offset_scale=geometry.offset_scale,
    )


def _fused_mask(offset: Tensor, geometry: Geometry) -> int:
    """Where the masks of the first group begin in DCNv4's one tensor."""
    return offset.data_ptr() + 2 * geometry.taps * offset.element_size()


class _Fixed(NamedTuple):
    """What of a call depends on its geometry alone."""

    shifts: ctypes.Array[ctypes.c_int64]
    stride: ctypes.Array[ctypes.c_int64]
    origin: ctypes.Array[ctypes.c_int64]


@functools.lru_cache(1024)
def _fixed(geometry: Geometry) -> _Fixed:
    flat = [number for pair in geometry.shifts() for number in pair]
    origin = _Pair(geometry.origin(0), geometry.origin(1))
    return _Fixed((ctypes.c_int64 * len(flat))(*flat), _Pair(*geometry.stride), origin)
