"""Boxes: formats, areas, overlaps, clipping and the coding of one box relative to another.

Pure functions on tensors ``[..., 4]``. Two conventions exist in the literature and every function that depends on
the choice takes ``pixel_offset``:

* ``0`` (the package's own, mmdetection, torchvision): continuous edges, ``width = x2 - x1``;
* ``1`` (Fast R-CNN and the original code of the papers): ``x2`` is the last pixel, ``width = x2 - x1 + 1``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)
"""Largest |dw|, |dh| that later implementations decode: a box may grow 62.5-fold in one step."""

_UNIT = (1.0, 1.0, 1.0, 1.0)


def sizes(boxes: Tensor, pixel_offset: int = 0) -> Tensor:
    """Widths and heights ``[..., 2]`` of boxes ``[..., 4]``."""
    return boxes[..., 2:] - boxes[..., :2] + pixel_offset


def areas(boxes: Tensor, pixel_offset: int = 0) -> Tensor:
    """Areas ``[...]`` in pixels² of boxes ``[..., 4]``."""
    return sizes(boxes, pixel_offset).prod(-1)


def iou(first: Tensor, second: Tensor, pixel_offset: int = 0) -> Tensor:
    """Intersection over union of every pair.

    Args:
        first: boxes ``[N, 4]``.
        second: boxes ``[M, 4]``.
        pixel_offset: 0: ``width = x2 - x1``; 1: ``x2`` is the last pixel, ``width = x2 - x1 + 1``.

    Returns:
        ``[N, M]`` in ``[0, 1]``; 0 where both boxes are empty.
    """
    # One coordinate at a time: an [N, M, 2] intermediate of 270,000 anchors and 100 objects would take 430 MB.
    overlap = _overlap_along(first[:, 0::2], second[:, 0::2], pixel_offset)
    overlap *= _overlap_along(first[:, 1::2], second[:, 1::2], pixel_offset)
    union = areas(first, pixel_offset)[:, None] + areas(second, pixel_offset)[None] - overlap
    return overlap.div_(union.clamp_(min=1e-6))


def _overlap_along(first: Tensor, second: Tensor, pixel_offset: int) -> Tensor:
    low = torch.maximum(first[:, None, 0], second[None, :, 0])
    high = torch.minimum(first[:, None, 1], second[None, :, 1])
    return (high - low + pixel_offset).clamp_(min=0)


def clip(boxes: Tensor, size: tuple[int, int], pixel_offset: int = 0) -> Tensor:
    """Boxes ``[..., 4]`` moved into an image of ``size = (height, width)``: ``0 <= x <= width - pixel_offset``."""
    height, width = size
    x = boxes[..., 0::2].clamp(0, width - pixel_offset)
    y = boxes[..., 1::2].clamp(0, height - pixel_offset)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), -1)


def clip_batch(boxes: Tensor, sizes: Tensor, pixel_offset: int = 0) -> Tensor:
    """:func:`clip` of boxes ``[N, ..., 4]``, each row into its image; ``sizes`` ``[N, 2]`` are (height, width)."""
    ends = (sizes - pixel_offset).flip(1).repeat(1, 2)
    return boxes.clamp(min=0).minimum(per_image(ends, boxes))


def per_image(values: Tensor, boxes: Tensor) -> Tensor:
    """``[N, 4]``, one row per image, in the shape that goes with boxes ``[N, ..., 4]``."""
    return values.view(-1, *[1] * (boxes.ndim - 2), 4)


def scale(boxes: Tensor, old_size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Boxes ``[..., 4]`` of an image of ``old_size = (height, width)`` after it was resized to ``new_size``."""
    y, x = (new / old for new, old in zip(new_size, old_size, strict=True))
    return boxes * boxes.new_tensor((x, y, x, y))


def encode(references: Tensor, boxes: Tensor, *, stds: Sequence[float] = _UNIT, pixel_offset: int = 0) -> Tensor:
    """The regression target ``(dx, dy, dw, dh)`` that moves ``references`` onto ``boxes`` (R-CNN, equations 6-9).

    Args:
        references: anchors or proposals ``[..., 4]`` with positive width and height.
        boxes: objects ``[..., 4]``, likewise.
        stds: what the four values are divided by.
        pixel_offset: 0: ``width = x2 - x1``; 1: ``x2`` is the last pixel, ``width = x2 - x1 + 1``.
    """
    old_size, old_centre = _size_and_centre(references, pixel_offset)
    new_size, new_centre = _size_and_centre(boxes, pixel_offset)
    deltas = torch.cat(((new_centre - old_centre) / old_size, torch.log(new_size / old_size)), -1)
    return _each(deltas, stds, torch.div)


def decode(
    references: Tensor,
    deltas: Tensor,
    *,
    stds: Sequence[float] = _UNIT,
    pixel_offset: int = 0,
    max_log_ratio: float | None = MAX_LOG_RATIO,
) -> Tensor:
    """The inverse of :func:`encode`.

    Args:
        references: anchors or proposals ``[..., 4]``; broadcast against ``deltas``.
        deltas: predictions ``[..., 4]``.
        stds: what the four values are multiplied by.
        pixel_offset: 0: ``width = x2 - x1``; 1: ``x2`` is the last pixel, ``width = x2 - x1 + 1``.
        max_log_ratio: bound of ``|dw|`` and ``|dh|`` after the multiplication; ``None`` (the original code): none.
    """
    deltas = _each(deltas, stds, torch.mul)
    shift, log_ratio = deltas[..., :2], deltas[..., 2:]
    if max_log_ratio is not None:
        log_ratio = log_ratio.clamp(-max_log_ratio, max_log_ratio)
    size, centre = _size_and_centre(references, pixel_offset)
    centre = centre + shift * size
    half = (size * log_ratio.exp() - pixel_offset) * 0.5
    return torch.cat((centre - half, centre + half), -1)


def _each(values: Tensor, factors: Sequence[float], operation: Callable[[Tensor, float], Tensor]) -> Tensor:
    """``[..., 4]`` times or over four numbers; a tensor of them would be copied to the device, which waits for it."""
    if all(factor == 1.0 for factor in factors):
        return values
    return torch.stack([operation(value, factor) for value, factor in zip(values.unbind(-1), factors, strict=True)], -1)


def _size_and_centre(boxes: Tensor, pixel_offset: int) -> tuple[Tensor, Tensor]:
    size = sizes(boxes, pixel_offset)
    return size, boxes[..., :2] + 0.5 * (size - pixel_offset)


def to_xywh(boxes: Tensor) -> Tensor:
    """``(x1, y1, x2, y2)`` to COCO's ``(x1, y1, width, height)``."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), -1)


def from_xywh(boxes: Tensor) -> Tensor:
    """COCO's ``(x1, y1, width, height)`` to ``(x1, y1, x2, y2)``."""
    return torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), -1)


def from_inclusive(boxes: Tensor) -> Tensor:
    """Boxes whose ``x2, y2`` name the last pixel to continuous edges."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] + 1), -1)


def to_inclusive(boxes: Tensor) -> Tensor:
    """Continuous edges to boxes whose ``x2, y2`` name the last pixel."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] - 1), -1)
