"""DCNv3 and DCNv4 on the CPU: callers of ``csrc/dcnv3.cpp``.

float32 and float64 are computed as such; float16 and bfloat16 are read and written, coordinates and sums are float32.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.kernels.dcnv3_geometry import Geometry, describe

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_MAX_PIXELS = 2**29  # pixels of an image are 32-bit numbers
_POINTERS, _FIELDS = struct.Struct("=8Q"), struct.Struct("=Q6q6q4q5qd")
"""``DcnV3Call`` of ``csrc/dcnv3.h``: pointers, then shifts, sizes, geometry, steps, flags."""


def unsupported(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> str | None:
    """Why this call cannot run here, or ``None`` when it can."""
    if not input.is_cpu:
        return f"the tensors are on {input.device}, the CPU kernels need them on the CPU"
    shape = input.shape
    if shape[1] * shape[2] >= _MAX_PIXELS:
        return f"an image of {shape[1] * shape[2]} pixels is too large, the limit is {_MAX_PIXELS}"
    return _library.reason()


def forward(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> Tensor:
    """``[N, Ho, Wo, C]`` in the type of ``input``: the sum over the taps of mask * sampled input."""
    input, offset, mask = _dense(input), _dense(offset), None if mask is None else _dense(mask)
    masks = _fused_mask(offset, geometry) if mask is None else mask.data_ptr()
    fixed = _describe(input, offset, mask, geometry)
    if input.shape == fixed.shape:
        output = torch.empty_like(input)  # 15 us less after a pause
    else:
        output = torch.empty_strided(fixed.shape, fixed.strides, dtype=input.dtype, device=input.device)
    pointers = _POINTERS.pack(input.data_ptr(), offset.data_ptr(), masks, 0, output.data_ptr(), 0, 0, 0)
    status = _library.library().dcn_dcnv3_forward(pointers + fixed.fields)
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
    grad_output, input, offset = _dense(grad_output), _dense(input), _dense(offset)
    mask = None if mask is None else _dense(mask)
    grad_input = torch.empty_like(input) if needs[0] else None
    grad_offset = torch.empty_like(offset) if needs[1] else None
    grad_mask = torch.empty_like(mask) if needs[2] and mask is not None else None
    masks, by_mask = 0 if mask is None else mask.data_ptr(), _address(grad_mask)
    if mask is None:
        masks = _fused_mask(offset, geometry)
        if grad_offset is not None:
            by_mask = _fused_mask(grad_offset, geometry)
            owned = 3 * geometry.groups * geometry.taps
            if owned < grad_offset.shape[3]:
                grad_offset[..., owned:] = 0
    fixed = _describe(input, offset, mask, geometry)
    pointers = _POINTERS.pack(
        *(input.data_ptr(), offset.data_ptr(), masks, grad_output.data_ptr(), 0),
        *(_address(grad_input), _address(grad_offset), by_mask),
    )
    status = _library.library().dcn_dcnv3_backward(pointers + fixed.fields)
    if status:
        _library.check(status, describe("backward", input, offset, geometry))
    return grad_input, grad_offset, grad_mask


def _dense(tensor: Tensor) -> Tensor:
    """``tensor.contiguous()``, which even then goes through torch's dispatcher: 10 us each after a pause."""
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _fused_mask(offset: Tensor, geometry: Geometry) -> int:
    """Where the masks of the first group begin in DCNv4's one tensor."""
    return offset.data_ptr() + 2 * geometry.taps * offset.element_size()


class _Fixed(NamedTuple):
    """What of a call is the same for all tensors of the same sizes."""

    fields: bytes
    shifts: ctypes.Array[ctypes.c_int64]  # [K, 2]: the taps from the centre of the pattern; the fields point to it
    shape: tuple[int, ...]  # of the output
    strides: tuple[int, ...]  # given to torch.empty_strided: torch.empty takes 20 us longer with cold caches


def _describe(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> _Fixed:
    """The fields of the call behind its pointers."""
    types = (_DTYPES[input.dtype], _DTYPES[offset.dtype], _DTYPES[offset.dtype if mask is None else mask.dtype])
    return _fixed(
        input.shape, offset.shape, None if mask is None else mask.shape[3], types, geometry, _library.threads()
    )


@functools.lru_cache(4096)
def _fixed(
    input: Sequence[int],
    offset: Sequence[int],
    mask_row: int | None,
    types: tuple[int, int, int],
    geometry: Geometry,
    threads: int,
) -> _Fixed:
    """Kept: to put them together took a third of a small call."""
    taps, fused = geometry.taps, mask_row is None
    per_group = 3 * taps if fused else 2 * taps
    flat = [number for pair in geometry.shifts() for number in pair]
    shifts = (ctypes.c_int64 * len(flat))(*flat)
    fields = _FIELDS.pack(
        *(ctypes.addressof(shifts), *input, geometry.groups, taps),
        *(*offset[1:3], *geometry.stride, geometry.origin(0), geometry.origin(1)),
        *(offset[3], per_group, offset[3] if mask_row is None else mask_row, per_group if fused else taps),
        *(*types, geometry.softmax, threads, geometry.offset_scale),
    )
    rows, columns, channels = offset[1], offset[2], input[3]
    strides = (rows * columns * channels, columns * channels, channels, 1)
    return _Fixed(fields, shifts, (*offset[:3], channels), strides)
