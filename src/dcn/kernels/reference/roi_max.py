"""RoI max pooling in plain PyTorch, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from dcn.kernels.roi_grid import round_half_away

CHECKS_IMAGES = False
_CHUNK = 1 << 23
"""Values read at a time (32 MB in float32): memory does not grow with the number of RoIs."""


def unsupported(input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float) -> str | None:
    """``None``: the reference takes every call."""
    return None


def cells(
    boxes: Tensor, images: int, extent: tuple[int, int], output_size: tuple[int, int], scale: float
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Image ``[R]`` int64 of every RoI, and per axis first and last-plus-one cell ``[R, bins]`` int64 of its bins.

    Corners are rounded after scaling, the last one belongs to the RoI, the least size is one cell. A RoI with NaN,
    infinity or an image that does not exist has no cells.
    """
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    low, high = round_half_away(boxes[:, [2, 1]] * scale), round_half_away(boxes[:, [4, 3]] * scale)
    valid = torch.isfinite(low - high).all(1) & (boxes[:, 0] >= 0) & (boxes[:, 0] < images)
    low, sizes = torch.where(valid[:, None], low, 0.0), (high - low + 1).clamp(min=1)
    axes = []
    for axis, (bins, last) in enumerate(zip(output_size, extent, strict=True)):
        step = torch.arange(bins, device=boxes.device, dtype=boxes.dtype)
        size = torch.where(valid, sizes[:, axis] / bins, 0.0)[:, None]
        begin = ((step * size).floor() + low[:, axis, None]).clamp(0, last).long()
        end = (((step + 1) * size).ceil() + low[:, axis, None]).clamp(0, last).long()
        axes.append((begin, end))
    return torch.where(valid, boxes[:, 0], 0.0).long(), axes


def _positions(axes: list[tuple[Tensor, Tensor]], width: int) -> Tensor:
    """``[R, P, Q, S]``: locations ``row * width + column`` of every bin's cells in reading order, -1 beyond its end."""
    locations = []
    for begin, end in axes:
        most = int((end - begin).clamp(min=0).max()) if begin.numel() else 0
        location = begin[..., None] + torch.arange(most, device=begin.device)
        locations.append(torch.where(location < end[..., None], location, -1))
    rows, columns = locations[0][:, :, None, :, None], locations[1][:, None, :, None, :]
    return torch.where((rows >= 0) & (columns >= 0), rows * width + columns, -1).flatten(3)


def _largest(
    input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest value and its location ``[R, C, P, Q]`` (-1: empty bin), and the image ``[R]``. NaN counts as largest."""
    images, channels, height, width = input.shape
    image, axes = cells(boxes, images, (height, width), output_size, spatial_scale)
    values = input.flatten(2)
    found = [(input.new_zeros(0, channels, *output_size), image.new_zeros(0, channels, *output_size))]
    positions = _positions(axes, width)
    step = max(1, _CHUNK // max(1, channels * positions[:1].numel()))
    for begin in range(0, boxes.shape[0], step):
        location = positions[begin : begin + step, None].expand(-1, channels, -1, -1, -1)
        found.append(_largest_of(values[image[begin : begin + step]], location))
    largest, locations = (torch.cat(parts) for parts in zip(*found, strict=True))
    return largest, locations, image


def _largest_of(values: Tensor, location: Tensor) -> tuple[Tensor, Tensor]:
    """Largest of ``values [r, C, H*W]`` at ``location [r, C, P, Q, S]`` and where it is."""
    if not location.shape[-1]:
        empty = location.new_zeros(location.shape[:-1])
        return values.new_zeros(empty.shape), empty - 1
    read = values.gather(2, location.clamp(min=0).flatten(2)).view(location.shape)
    read = torch.where(location >= 0, read, -torch.inf)
    # argmax gives the first of equal values, as the published loops do; a bin of -inf alone still reads its first cell.
    best = read.argmax(-1, keepdim=True)
    where = location.gather(-1, best)[..., 0]
    return torch.where(where >= 0, read.gather(-1, best)[..., 0], 0.0), where


def forward(input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float) -> Tensor:
    """``[R, C, P, Q]``: the largest value of each bin's cells, 0 where it has none."""
    return _largest(input, boxes, output_size, spatial_scale)[0]


def backward(
    grad_output: Tensor, input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float
) -> Tensor:
    """``[N, C, H, W]``: each bin's gradient goes to the first of its largest cells."""
    _, location, image = _largest(input.detach(), boxes, output_size, spatial_scale)
    images, channels, height, width = input.shape
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    plane = image[:, None, None, None] * channels + torch.arange(channels, device=input.device)[:, None, None]
    index = plane * (height * width) + location.clamp(min=0)
    grad = torch.where(location >= 0, grad_output.to(dtype), 0.0)
    result = grad.new_zeros(images * channels * height * width).index_add(0, index.flatten(), grad.flatten())
    return result.view(input.shape).to(input.dtype)
