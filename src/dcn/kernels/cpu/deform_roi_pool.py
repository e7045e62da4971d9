"""The averaging RoI poolings (RoIAlign, position-sensitive, deformable): callers of csrc/deform_roi_pool.cpp.

Coordinates are made here, by the description that all backends share; the library does the sums. Without channel groups
the map is read with channels innermost, pixels being rows of memory. Measured on two cores, 300 RoIs of 7 x 7
on ``[1, 256, 50, 76]``: RoIAlign takes 7 ms with the turning of an NCHW map, onnxruntime's, which reads NCHW, 74 ms.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.kernels.roi_grid import Axis, Grid, RoiRule, build, offset_gradient

_LIBRARY_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _Axis(ctypes.Structure):
    """``DcnRoiAxis`` of csrc/deform_roi_pool.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("by_class", "by_other", "most")),
        *((name, ctypes.c_void_p) for name in ("origin", "step", "count")),
    )


class _Call(ctypes.Structure):
    """``DcnRoiCall`` of csrc/deform_roi_pool.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("rois", "classes", "bins_y", "bins_x", "group_y", "group_x")),
        *((name, ctypes.c_int64) for name in ("flat", "is_double", "threads")),
        ("margin", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("data", "image", "scale", "mask")),
        ("rows", _Axis),
        ("columns", _Axis),
    )


class _Prepared(NamedTuple):
    call: _Call
    grid: Grid
    data: Tensor
    alive: tuple[Tensor | None, ...]  # what the call points to


def unsupported(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> str | None:
    """Why the library cannot compute this call, or ``None``."""
    if input.device.type != "cpu":
        return f"it computes on the CPU, the input is on {input.device}"
    if input.dtype not in _LIBRARY_TYPES:
        return f"it computes float16, bfloat16, float32 and float64, the input is {input.dtype}"
    return _library.reason()


def _prepare(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> _Prepared:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    images, channels, height, width = input.shape
    boxes, moves = boxes.detach().to(dtype), None if offset is None else offset.detach().to(dtype)
    grid = build(rule, (images, height, width), boxes, moves)
    cells = rule.group[0] * rule.group[1]
    layout = torch.contiguous_format if cells > 1 else torch.channels_last
    data = input.detach().to(dtype).contiguous(memory_format=layout)
    scale = None if grid.scale is None else grid.scale.expand(-1, 1, *rule.output_size).contiguous()
    factors = None if mask is None else mask.detach().to(dtype).contiguous()
    (rows, alive_rows), (columns, alive_columns) = _axis(grid.rows, 3), _axis(grid.columns, 2)
    call = _Call(
        *(images, channels // cells, height, width),
        *(boxes.shape[0], grid.classes, *rule.output_size, *rule.group),
        *(grid.flat, dtype == torch.float64, _library.threads()),
        grid.margin,
        *(None if t is None else t.data_ptr() for t in (data, grid.image, scale, factors)),
        *(rows, columns),
    )
    return _Prepared(call, grid, data, (grid.image, scale, factors, *alive_rows, *alive_columns))


def _axis(axis: Axis, other: int) -> tuple[_Axis, tuple[Tensor, ...]]:
    """The C description of an axis, and the tensors that it points to; ``other`` is the axis of bins across it."""
    origin, step, many = (t.contiguous() for t in axis)
    most = int(many.max()) if many.numel() else 0
    pointers = (t.data_ptr() for t in (origin, step, many))
    return _Axis(origin.shape[1] > 1, origin.shape[other] > 1, most, *pointers), (origin, step, many)


def _describe(input: Tensor, boxes: Tensor) -> str:
    return f"roi_mean of {list(input.shape)} {input.dtype} with {boxes.shape[0]} RoIs"


def forward(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> Tensor:
    """``[R, D, P, Q]`` in the type of ``input``: the mean of each bin's samples, times the mask."""
    prepared = _prepare(input, boxes, offset, mask, rule)
    output = prepared.data.new_empty((boxes.shape[0], prepared.call.channels, *rule.output_size))
    status = _library.library().dcn_roi_mean_forward(ctypes.byref(prepared.call), ctypes.c_void_p(output.data_ptr()))
    _library.check(status, _describe(input, boxes))
    return output.to(input.dtype)


def backward(
    grad_output: Tensor,
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    rule: RoiRule,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, offset and mask, each in the shape and type of what it belongs to; ``needs`` says which."""
    prepared = _prepare(input, boxes, offset, mask, rule)
    grad = grad_output.detach().to(prepared.data.dtype).contiguous()
    grad_input = grad_offset = grad_mask = None
    if needs[0]:
        grad_input = _grad_input(prepared, grad, input, boxes)
    if (needs[1] and offset is not None) or (needs[2] and mask is not None):
        shifts, factors = _grad_locations(prepared, grad, input, boxes)
        if needs[1] and offset is not None:
            grad_offset = offset_gradient(shifts, prepared.grid.sizes, offset, rule).to(offset.dtype)
        if needs[2] and mask is not None:
            grad_mask = factors.view(mask.shape).to(mask.dtype)
    return grad_input, grad_offset, grad_mask


def _grad_input(prepared: _Prepared, grad: Tensor, input: Tensor, boxes: Tensor) -> Tensor:
    result = torch.zeros_like(prepared.data)
    status = _library.library().dcn_roi_mean_backward_input(
        ctypes.byref(prepared.call), ctypes.c_void_p(grad.data_ptr()), ctypes.c_void_p(result.data_ptr())
    )
    _library.check(status, f"gradient of {_describe(input, boxes)}")
    return result.to(input.dtype).contiguous()


def _grad_locations(prepared: _Prepared, grad: Tensor, input: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the bins' shifts ``[R, K, P, Q, 2]`` and of the mask ``[R, 1, P, Q]``."""
    rois, _, *bins = grad.shape
    shifts, factors = grad.new_empty((rois, prepared.grid.classes, *bins, 2)), grad.new_zeros((rois, 1, *bins))
    status = _library.library().dcn_roi_mean_backward_locations(
        ctypes.byref(prepared.call), *(ctypes.c_void_p(t.data_ptr()) for t in (grad, shifts, factors))
    )
    _library.check(status, f"offset gradient of {_describe(input, boxes)}")
    return shifts, factors
