"""The averaging RoI poolings (RoIAlign, position-sensitive, deformable): callers of csrc/roi_mean.cpp.

Without channel groups the map is read with channels innermost, pixels being rows of memory. Measured on two cores, 300
RoIs of 7 x 7 on ``[1, 256, 50, 76]``: RoIAlign takes 7 ms with the turning of an NCHW map, onnxruntime's, which reads
NCHW, 74 ms.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.kernels.roi_grid import FORMS, RoiRule, check_images

CHECKS_IMAGES = True
_LIBRARY_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FIELDS, _POINTERS = struct.Struct("=16q2d"), struct.Struct("=4Q")
"""``DcnRoiCall`` of csrc/roi_grid.h."""


class _Prepared(NamedTuple):
    call: bytes
    data: Tensor  # the map as the library reads it
    offset: Tensor | None
    alive: tuple[Tensor | None, ...]  # what else the call points to


def unsupported(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> str | None:
    """Why the library cannot compute this call, or ``None``."""
    if input.device.type != "cpu":
        return f"it computes on the CPU, the input is on {input.device}"
    if input.dtype not in _LIBRARY_TYPES:
        return f"it computes float16, bfloat16, float32 and float64, the input is {input.dtype}"
    return _library.reason()


def _prepare(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> _Prepared:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    grouped = rule.group != (1, 1)
    data = _plain(input, dtype, torch.contiguous_format if grouped else torch.channels_last)
    boxes = _plain(boxes, dtype)
    offset = None if offset is None else _plain(offset, dtype)
    mask = None if mask is None else _plain(mask, dtype)
    by_part = None if offset is None else offset.shape
    fields = _fields(input.shape, boxes.shape[0], by_part, rule, dtype == torch.float64, _library.threads())
    pointers = _POINTERS.pack(data.data_ptr(), boxes.data_ptr(), _address(offset), _address(mask))
    return _Prepared(fields + pointers, data, offset, (boxes, mask))


@functools.lru_cache(4096)
def _fields(
    input: Sequence[int], rois: int, offset: Sequence[int] | None, rule: RoiRule, double: bool, threads: int
) -> bytes:
    """The fields of the call before its pointers. Kept: to pack them took a tenth of a small call."""
    images, channels, height, width = input
    cells = rule.group[0] * rule.group[1]
    classes, parts = (1, (1, 1)) if offset is None else (offset[1] // 2, (offset[2], offset[3]))
    return _FIELDS.pack(
        *(images, channels // cells, height, width, rois, classes, *rule.output_size, *rule.group),
        *(FORMS.index(rule.form), rule.samples, *parts, double, threads, rule.spatial_scale, rule.gamma),
    )


def _plain(tensor: Tensor, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """The tensor as the library reads it: itself where it is already."""
    if tensor.dtype == dtype:
        return tensor.contiguous(memory_format=layout)
    return tensor.detach().to(dtype).contiguous(memory_format=layout)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _describe(input: Tensor, boxes: Tensor) -> str:
    return f"roi_mean of {list(input.shape)} {input.dtype} with {boxes.shape[0]} RoIs"


def forward(input: Tensor, boxes: Tensor, offset: Tensor | None, mask: Tensor | None, rule: RoiRule) -> Tensor:
    """``[R, D, P, Q]`` in the type of ``input``: the mean of each bin's samples, times the mask.

    Raises:
        ValueError: an image index that does not exist.
    """
    prepared = _prepare(input, boxes, offset, mask, rule)
    channels = input.shape[1] // (rule.group[0] * rule.group[1])
    output = prepared.data.new_empty((boxes.shape[0], channels, *rule.output_size))
    status = _library.library().dcn_roi_mean_forward(prepared.call, output.data_ptr())
    if status == _library.MISSING_IMAGE:
        check_images(input.shape[0], boxes)
    if status:
        _library.check(status, _describe(input, boxes))
    return output if output.dtype == input.dtype else output.to(input.dtype)


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
    grad_input = _grad_input(prepared, grad, input, boxes) if needs[0] else None
    grad_offset, grad_mask = _grad_locations(prepared, grad, input, boxes, offset, mask, needs)
    return grad_input, grad_offset, grad_mask


def _grad_input(prepared: _Prepared, grad: Tensor, input: Tensor, boxes: Tensor) -> Tensor:
    result = torch.zeros_like(prepared.data)
    status = _library.library().dcn_roi_mean_backward_input(prepared.call, grad.data_ptr(), result.data_ptr())
    _library.check(status, f"gradient of {_describe(input, boxes)}")
    return result.to(input.dtype).contiguous()


def _grad_locations(
    prepared: _Prepared,
    grad: Tensor,
    input: Tensor,
    boxes: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the offset and of the mask, where there is one and its gradient is needed."""
    by_offset = by_mask = None
    if needs[1] and offset is not None:
        by_offset = grad.new_zeros(offset.shape)
    if needs[2] and mask is not None:
        by_mask = grad.new_zeros(mask.shape)
    if by_offset is None and by_mask is None:
        return None, None
    pointers = (grad.data_ptr(), _address(by_offset), _address(by_mask))
    status = _library.library().dcn_roi_mean_backward_locations(prepared.call, *pointers)
    _library.check(status, f"offset gradient of {_describe(input, boxes)}")
    if by_offset is not None and offset is not None:
        by_offset = by_offset.to(offset.dtype)
    if by_mask is not None and mask is not None:
        by_mask = by_mask.to(mask.dtype)
    return by_offset, by_mask
