"""RoI max pooling on the CPU: caller of csrc/roi_max.cpp."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.kernels.roi_grid import check_images

CHECKS_IMAGES = True
_CALL = struct.Struct("=10qd2Q")
"""``DcnRoiMaxCall`` of csrc/roi_max.cpp."""


def unsupported(input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float) -> str | None:
    """Why the library cannot compute this call, or ``None``."""
    if input.device.type != "cpu":
        return f"it computes on the CPU, the input is on {input.device}"
    return _library.reason()


def _prepare(
    input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float
) -> tuple[bytes, Tensor, Tensor]:
    """The call and what it points to: the map and the boxes."""
    data = input.detach().to(torch.float64 if input.dtype == torch.float64 else torch.float32).contiguous()
    boxes = boxes.detach().to(torch.float64 if boxes.dtype == torch.float64 else torch.float32).contiguous()
    doubles = (data.dtype == torch.float64, boxes.dtype == torch.float64)
    sizes = (*input.shape, boxes.shape[0], *output_size)
    pointers = (data.data_ptr(), boxes.data_ptr())
    return _CALL.pack(*sizes, *doubles, _library.threads(), spatial_scale, *pointers), data, boxes


def _describe(input: Tensor, boxes: Tensor) -> str:
    return f"roi_pool of {list(input.shape)} {input.dtype} with {boxes.shape[0]} RoIs"


def forward(input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float) -> Tensor:
    """``[R, C, P, Q]``: the largest value of each bin's cells, 0 where it has none.

    Raises:
        ValueError: an image index that does not exist.
    """
    call, data, _alive = _prepare(input, boxes, output_size, spatial_scale)
    output = data.new_empty((boxes.shape[0], input.shape[1], *output_size))
    status = _library.library().dcn_roi_max_forward(call, output.data_ptr())
    if status == _library.MISSING_IMAGE:
        check_images(input.shape[0], boxes)
    if status:
        _library.check(status, _describe(input, boxes))
    return output.to(input.dtype)


def backward(
    grad_output: Tensor, input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float
) -> Tensor:
    """``[N, C, H, W]``: each bin's gradient goes to the first of its largest cells."""
    call, data, _alive = _prepare(input, boxes, output_size, spatial_scale)
    grad, result = grad_output.detach().to(data.dtype).contiguous(), torch.zeros_like(data)
    status = _library.library().dcn_roi_max_backward(call, grad.data_ptr(), result.data_ptr())
    _library.check(status, f"gradient of {_describe(input, boxes)}")
    return result.to(input.dtype)
