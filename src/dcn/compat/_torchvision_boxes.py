"""The box functions of ``torchvision.ops`` that detection programs import beside its operators."""

from __future__ import annotations

import torch
from torch import Tensor

from dcn import checks
from dcn.boxes import areas, clip, sizes

_FORMATS = ("xyxy", "xywh", "cxcywh")


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """``torchvision.ops.box_area``: ``[N]`` for boxes ``[N, 4]``; ``fmt`` as in :func:`box_convert`."""
    return areas(box_convert(boxes, fmt, "xyxy"))


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """``torchvision.ops.box_iou``: ``[N, M]`` for boxes ``[N, 4]`` and ``[M, 4]``; NaN where both are empty."""
    first, second = (box_convert(boxes, fmt, "xyxy") for boxes in (boxes1, boxes2))
    low = torch.maximum(first[:, None, :2], second[:, :2])
    high = torch.minimum(first[:, None, 2:], second[:, 2:])
    overlap = (high - low).clamp(min=0).prod(2)
    return overlap / (box_area(first)[:, None] + box_area(second) - overlap)


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """``torchvision.ops.box_convert``: boxes ``[..., 4]`` in another format: xyxy, xywh (corner) or cxcywh (centre).

    Raises:
        ValueError: a format has another name.
    """
    checks.choice("in_fmt", in_fmt, _FORMATS)
    checks.choice("out_fmt", out_fmt, _FORMATS)
    first, second = boxes[..., :2], boxes[..., 2:]
    size = second - first if in_fmt == "xyxy" else second
    corner = first - size / 2 if in_fmt == "cxcywh" else first
    start = corner + size / 2 if out_fmt == "cxcywh" else corner
    return torch.cat((start, corner + size if out_fmt == "xyxy" else size), -1) if in_fmt != out_fmt else boxes.clone()


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``torchvision.ops.clip_boxes_to_image``: boxes ``[..., 4]`` xyxy within an image of ``(height, width)``."""
    return clip(boxes, size)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """``torchvision.ops.remove_small_boxes``: indices ``[K]`` of the boxes with both sides of at least ``min_size``."""
    return (sizes(boxes) >= min_size).all(1).nonzero()[:, 0]
