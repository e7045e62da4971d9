"""Geometry of samples: size, flips, crops and turns; boxes and masks follow the image.

A `SegmentationMap` is moved with nearest-neighbour sampling, and has 255 (ignore) where nothing was.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dcn.class_names import IGNORE
from dcn.structures import Sample, SegmentationMap, Target

# Pixels above which channels are resized one after the other: the float32 copy of all would take 12 bytes a pixel.
_LARGE = 32_000_000


def resized_size(height: int, width: int, shorter: int, longer: int) -> tuple[int, int, float]:
    """New height and width, and the one scale of both sides.

    The shorter side becomes ``shorter`` unless the longer one would then pass ``longer``; sides are rounded, halves to
    the even number. Rule of the original MXNet code and of mmdetection.
    """
    if min(height, width, shorter, longer) < 1:
        raise ValueError(f"resize: expected positive sizes, got {height}x{width} to {shorter} (at most {longer})")
    scale = shorter / min(height, width)
    if round(scale * max(height, width)) > longer:
        scale = longer / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1), scale


def resize_image(image: Tensor, shorter: int, longer: int) -> tuple[Tensor, float]:
    """Resize ``[3, H, W]`` uint8 by `resized_size`; returns the image and the scale that boxes are multiplied by.

    Bilinear without antialiasing, pixel ``i`` at ``(i + 0.5) / scale - 0.5``, as OpenCV's linear resizing; the scale is
    the float itself, not the ratio of the rounded sides.
    """
    height, width, scale = resized_size(image.shape[1], image.shape[2], shorter, longer)
    return _scaled(image, (height, width), scale), scale


def _scaled(image: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    if size == tuple(image.shape[1:]):
        return image
    groups = (image,) if image[0].numel() <= _LARGE else image.split(1)
    resized = image.new_empty(image.shape[0], *size)
    for target, planes in zip(resized.split(len(groups[0])), groups, strict=True):
        values = torch.ops.aten.upsample_bilinear2d(planes[None].float(), size, False, scale, scale)
        target.copy_(values[0].round_().clamp_(0, 255))
    return resized


def _nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``[N, H, W]`` of any dtype to another size, the pixel whose centre is nearest."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp_(max=old - 1)
        for new, old in zip(size, maps.shape[1:], strict=True)
    )
    return maps[:, rows][:, :, columns]


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``[N, 4]`` xyxy boxes cut to an image of ``(height, width)``."""
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def scale_to(sample: Sample, size: tuple[int, int], scale: float) -> Sample:
    """Bring a sample to ``(height, width)``, which is its size times ``scale``, rounded; see `resize`."""
    image, target = _scaled(sample.image, size, scale), sample.target
    if isinstance(target, SegmentationMap):
        return Sample(image, replace(target, labels=_nearest(target.labels[None], size)[0]))
    masks = None if target.masks is None else _nearest(target.masks, size)
    return Sample(image, replace(target, boxes=clip_boxes(target.boxes * scale, size), masks=masks, size=size))


def resize(sample: Sample, shorter: int, longer: int) -> Sample:
    """Resize by `resized_size`: image bilinear, boxes times the scale and clipped, masks and labels nearest.

    ``Target.area`` stays in pixels of the original image.
    """
    height, width, scale = resized_size(sample.image.shape[1], sample.image.shape[2], shorter, longer)
    return scale_to(sample, (height, width), scale)


def flip(sample: Sample) -> Sample:
    """Flip horizontally: ``x' = width - x``."""
    width, target = sample.image.shape[2], sample.target
    image = sample.image.flip(2)
    if isinstance(target, SegmentationMap):
        return Sample(image, replace(target, labels=target.labels.flip(1)))
    x1, y1, x2, y2 = target.boxes.unbind(1)
    boxes = torch.stack((width - x2, y1, width - x1, y2), 1)
    return Sample(image, replace(target, boxes=boxes, masks=None if target.masks is None else target.masks.flip(2)))


def crop(sample: Sample, top: int, left: int, height: int, width: int, *, min_side: float = 1.0) -> Sample:
    """Cut a window out; boxes are clipped, objects with a side shorter than ``min_side`` pixels are dropped.

    Where the window passes the image, the picture is filled with 0 and a segmentation mask with 255. A flagged object
    (crowd, difficult) is dropped by the same rule.
    """
    target = sample.target
    image = _window(sample.image, top, left, height, width, 0)
    if isinstance(target, SegmentationMap):
        labels = _window(target.labels[None], top, left, height, width, IGNORE)[0]
        return Sample(image, replace(target, labels=labels))
    boxes = clip_boxes(target.boxes - target.boxes.new_tensor([left, top, left, top]), (height, width))
    masks = None if target.masks is None else _window(target.masks, top, left, height, width, False)
    moved = replace(target, boxes=boxes, masks=masks, size=(height, width))
    return Sample(image, drop_small(moved, min_side))


def _window(planes: Tensor, top: int, left: int, height: int, width: int, fill: float) -> Tensor:
    inside = planes[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    pads = (max(-left, 0), 0, max(-top, 0), 0)
    right, bottom = width - inside.shape[2] - pads[0], height - inside.shape[1] - pads[2]
    return F.pad(inside, (pads[0], right, pads[2], bottom), value=fill).contiguous()


def drop_small(target: Target, min_side: float) -> Target:
    """The target without objects whose box has a side shorter than ``min_side`` pixels."""
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    return target.select((sides >= min_side).all(1))


def rotate90(sample: Sample, turns: int) -> Sample:
    """Turn counter-clockwise by ``turns`` quarter turns, exactly: no pixel is interpolated."""
    for _ in range(turns % 4):
        sample = _quarter_turn(sample)
    return sample


def _quarter_turn(sample: Sample) -> Sample:
    height, width = sample.image.shape[1:]
    image, target = torch.rot90(sample.image, 1, (1, 2)).contiguous(), sample.target
    if isinstance(target, SegmentationMap):
        return Sample(image, replace(target, labels=torch.rot90(target.labels, 1, (0, 1)).contiguous()))
    x1, y1, x2, y2 = target.boxes.unbind(1)
    boxes = torch.stack((y1, width - x2, y2, width - x1), 1)
    masks = None if target.masks is None else torch.rot90(target.masks, 1, (1, 2)).contiguous()
    return Sample(image, replace(target, boxes=boxes, masks=masks, size=(width, height)))


def rotate(sample: Sample, degrees: float, *, min_side: float = 1.0) -> Sample:
    """Turn counter-clockwise by any angle about the centre, keeping the size of the image.

    The picture is sampled bilinearly with 0 outside, masks and labels nearest (255 outside). A new box is the extent of
    the turned mask where there are masks, else of the four turned corners, which is looser. Boxes are clipped, those
    with a side shorter than ``min_side`` pixels dropped.
    """
    height, width = sample.image.shape[1:]
    radians, target = math.radians(degrees), sample.target
    cos, sin = math.cos(radians), math.sin(radians)
    # affine_grid works in units of half the image: the aspect ratio enters the off-diagonal terms.
    theta = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
    grid = F.affine_grid(theta[None], [1, 1, height, width], align_corners=False)
    image = F.grid_sample(sample.image[None].float(), grid, align_corners=False)[0].round_().clamp_(0, 255)
    image = image.to(torch.uint8)
    if isinstance(target, SegmentationMap):
        # 255 lies outside the range of labels: sample labels + 1, where 0 stands for outside.
        labels = _turned(target.labels[None] + 1, grid)[0].long() - 1
        return Sample(image, replace(target, labels=torch.where(labels < 0, IGNORE, labels)))
    masks = None if target.masks is None else _turned(target.masks, grid).bool()
    boxes = _turned_corners(target.boxes, (height, width), cos, sin) if masks is None else mask_boxes(masks)
    moved = replace(target, boxes=clip_boxes(boxes, (height, width)).to(target.boxes.dtype), masks=masks)
    return Sample(image, drop_small(moved, min_side))


def _turned(maps: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(maps[None].float(), grid, mode="nearest", align_corners=False)[0]


def _turned_corners(boxes: Tensor, size: tuple[int, int], cos: float, sin: float) -> Tensor:
    centre = boxes.new_tensor([size[1] / 2, size[0] / 2])
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) - centre
    turned = corners @ boxes.new_tensor([[cos, -sin], [sin, cos]]) + centre
    return torch.cat((turned.amin(1), turned.amax(1)), 1)


def mask_boxes(masks: Tensor) -> Tensor:
    """``[N, 4]`` float32 tight boxes of ``[N, H, W]`` bool masks, continuous edges; zeros for an empty mask."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            box.copy_(torch.tensor(edges))
    return boxes
