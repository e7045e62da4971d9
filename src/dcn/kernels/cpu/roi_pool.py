"""RoI max pooling on the CPU: caller of csrc/roi_pool.cpp."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.kernels.reference.roi_pool import cells


class _Call(ctypes.Structure):
    """``DcnRoiMaxCall`` of csrc/roi_pool.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "channels", "height", "width", "rois", "bins_y", "bins_x")),
        *((name, ctypes.c_int64) for name in ("is_double", "threads")),
        *((name, ctypes.c_void_p) for name in ("data", "image", "top", "bottom", "left", "right")),
    )


def unsupported(input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float) -> str | None:
    """Why the library cannot compute this call, or ``None``."""
    if input.device.type != "cpu":
        return f"it computes on the CPU, the input is on {input.device}"
    return _library.reason()


def _prepare(
    input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float
) -> tuple[_Call, tuple[Tensor, ...]]:
    """The call and what it points to, the data first."""
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    images, channels, height, width = input.shape
    image, axes = cells(boxes.detach(), images, (height, width), output_size, spatial_scale)
    alive = tuple(t.contiguous() for t in (input.detach().to(dtype), image, *axes[0], *axes[1]))
    sizes = (images, channels, height, width, boxes.shape[0], *output_size)
    return _Call(*sizes, dtype == torch.float64, _library.threads(), *(t.data_ptr() for t in alive)), alive


def forward(input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float) -> Tensor:
    """``[R, C, P, Q]``: the largest value of each bin's cells, 0 where it has none."""
    call, alive = _prepare(input, boxes, output_size, spatial_scale)
    output = alive[0].new_empty((boxes.shape[0], input.shape[1], *output_size))
    status = _library.library().dcn_roi_max_forward(ctypes.byref(call), ctypes.c_void_p(output.data_ptr()))
    _library.check(status, f"roi_pool of {list(input.shape)} {input.dtype} with {boxes.shape[0]} RoIs")
    return output.to(input.dtype)


def backward(
    grad_output: Tensor, input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float
) -> Tensor:
    """``[N, C, H, W]``: each bin's gradient goes to the first of its largest cells."""
    call, alive = _prepare(input, boxes, output_size, spatial_scale)
    grad, result = grad_output.detach().to(alive[0].dtype).contiguous(), torch.zeros_like(alive[0])
    status = _library.library().dcn_roi_max_backward(
        ctypes.byref(call), ctypes.c_void_p(grad.data_ptr()), ctypes.c_void_p(result.data_ptr())
    )
    _library.check(status, f"gradient of roi_pool of {list(input.shape)} {input.dtype} with {boxes.shape[0]} RoIs")
    return result.to(input.dtype)
