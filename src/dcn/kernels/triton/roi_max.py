"""RoI max pooling in Triton. The backward finds each bin's largest cell again rather than keep an index of it."""

from __future__ import annotations

import torch
from torch import Tensor

from dcn.kernels.triton import _runtime
from dcn.kernels.triton._numbers import bits_of, power_above
from dcn.kernels.triton._whole_numbers import from_sums, unit_of

CHECKS_IMAGES = False
_VALUES = 1024
"""Elements of a tile ``[bins, channels]``: 8 per thread."""
_MOST_CHANNELS = 256


def unsupported(input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float) -> str | None:
    """Why Triton cannot compute this call, or ``None``."""
    if input.shape[2] * input.shape[3] >= 1 << 31:
        return f"it takes maps of fewer than 2**31 pixels, got {input.shape[2]} x {input.shape[3]}"
    return _runtime.reason(input, boxes)


def forward(input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float) -> Tensor:
    """``[R, C, P, Q]``: the largest value of each bin's cells, 0 where it has none."""
    output = input.new_empty((boxes.shape[0], input.shape[1], *output_size))
    if not input.numel():
        return output.zero_()
    if boxes.shape[0]:
        _launch(input, boxes, output, None, None, spatial_scale)
    return output


def backward(
    grad_output: Tensor, input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float
) -> Tensor:
    """``[N, C, H, W]``: each bin's gradient goes to the first of its largest cells."""
    if not boxes.shape[0] or not input.numel():
        return torch.zeros_like(input)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    grad = grad_output.detach().contiguous()
    unit = unit_of(grad, None, dtype) if torch.are_deterministic_algorithms_enabled() else None
    total = torch.zeros_like(input, dtype=dtype if unit is None else torch.int64)
    _launch(input, boxes, grad, total, unit, spatial_scale)
    return from_sums(total, unit).to(input.dtype)


def _launch(
    input: Tensor, boxes: Tensor, pooled: Tensor, total: Tensor | None, unit: Tensor | None, spatial_scale: float
) -> None:
    """Fill ``pooled`` or, where ``total`` is given, add its values there: floats, or multiples of ``1 / unit``."""
    from dcn.kernels.triton import _roi_max_kernels as kernels

    data, rois = input.detach(), boxes.shape[0]
    corners = (boxes if boxes.dtype == torch.float64 else boxes.float()).detach().contiguous()
    images, channels, height, width = data.shape
    bins = pooled.shape[2] * pooled.shape[3]
    block = min(power_above(channels), _MOST_CHANNELS)
    tile = (min(power_above(bins), max(1, _VALUES // block)), block)
    target = data if total is None else total
    with _runtime.launching(input, lambda: f"roi_pool of {list(input.shape)} {input.dtype} with {rois} RoIs"):
        kernels.largest[(rois, -(-bins // tile[0]), -(-channels // tile[1]))](
            *(data, corners, pooled, pooled, corners if unit is None else unit, target),
            *(images, channels, height, width, *data.stride(), *target.stride(), bits_of(spatial_scale)),
            *(pooled.shape[2], pooled.shape[3], total is not None, *tile),
            enable_fp_fusion=False,
        )
