"""What anchors and regions shall learn, by the rules of the original MXNet code. Boxes are inclusive throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcn import boxes
from dcn.models.detection.matcher import match
from dcn.models.detection.sampler import choose, sample
from dcn.structures import Target

STDS = (0.1, 0.1, 0.2, 0.2)
"""What the four regression targets of regions are divided by (precomputed, means 0)."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image in the original's form.

    Attributes:
        boxes: ``[G, 4]`` float32, inclusive, rounded to whole pixels of the network's input and inside of it.
        labels: ``[G]`` int64, ``1 .. C`` (0 is background).
    """

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class AnchorTargets:
    """What each of ``M`` anchors shall say.

    Attributes:
        labels: ``[M]`` int64: 0 background, 1 and above the class, -1 not sampled.
        deltas: ``[M, 4]``; defined where the label is positive.
    """

    labels: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class RegionTargets:
    """Regions of one image with what the second stage shall say about them.

    Attributes:
        rois: ``[R, 4]`` inclusive.
        labels: ``[R]`` int64: 0 background, 1 and above the class, -1 left out of the loss.
        deltas: ``[R, 4]``, divided by :data:`STDS`; defined where the label is positive.
    """

    rois: Tensor
    labels: Tensor
    deltas: Tensor


def objects_of(target: Target, device: torch.device) -> Objects:
    """The objects of an annotation that are trained on: no crowd or difficult ones, none without area.

    Boxes become inclusive and are rounded (half to even) and clipped, as the original does after resizing. All this
    happens where the annotation is: on a GPU the number of objects would have to be waited for.
    """
    target = target.select(~target.ignored)
    rounded = boxes.clip(boxes.to_inclusive(target.boxes.float()).round(), target.size, pixel_offset=1)
    kept = (boxes.sizes(target.boxes) > 0).all(1) & (boxes.sizes(rounded, 1) > 0).all(1)
    found = rounded[kept], target.labels[kept] + 1
    return Objects(*(value.to(device, non_blocking=device.type != "cpu") for value in found))


def assign_anchors(
    anchors: Tensor,
    objects: Objects,
    size: tuple[int, int],
    *,
    inside_only: bool = True,
    positive_iou: float = 0.7,
    negative_iou: float = 0.3,
    samples: int | None = 256,
    class_aware: bool = False,
) -> AnchorTargets:
    """Labels and regression targets of anchors (Faster R-CNN, section 3.1.2).

    An anchor is positive if it overlaps an object by ``positive_iou``, or if none overlaps that object more (ties
    included, at whatever overlap); negative below ``negative_iou``; otherwise it does not count. Each positive anchor
    belongs to the object that it overlaps most.

    Args:
        anchors: ``[M, 4]``.
        objects: of the image.
        size: ``(height, width)`` of the image.
        inside_only: anchors that stick out of the image do not count.
        positive_iou: see above.
        negative_iou: see above.
        samples: how many count, at most half of them positive, chosen at random; ``None``: all.
        class_aware: positive anchors carry the class of their object instead of 1.
    """
    usable = _inside(anchors, size) if inside_only else torch.ones_like(anchors[:, 0], dtype=torch.bool)
    chosen = usable.nonzero()[:, 0]
    overlap = boxes.iou(objects.boxes, anchors[chosen], pixel_offset=1)
    matched = match(overlap, positive_iou=positive_iou, negative_iou=negative_iou, low_quality="keep")
    if samples is None:
        positive, negative = (matched >= 0).nonzero()[:, 0], (matched == -1).nonzero()[:, 0]
    else:
        positive, negative = sample(matched, samples, 0.5)
    owner = matched[positive]
    labels = torch.full_like(usable, -1, dtype=torch.int64)
    labels[chosen[negative]] = 0
    labels[chosen[positive]] = objects.labels[owner] if class_aware else 1
    deltas = torch.zeros_like(anchors)
    deltas[chosen[positive]] = boxes.encode(anchors[chosen[positive]], objects.boxes[owner], pixel_offset=1)
    return AnchorTargets(labels, deltas)


def _inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    ends = anchors.new_tensor((size[1], size[0]))
    return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] < ends).all(1)


def assign_regions(
    proposals: Tensor,
    objects: Objects,
    *,
    samples: int | None = None,
    positive_fraction: float = 0.25,
    positive_iou: float = 0.5,
    lowest_negative_iou: float = 0.0,
    stds: Sequence[float] = STDS,
) -> RegionTargets:
    """Labels and regression targets of proposals and of the objects themselves, which are added; positives first.

    Args:
        proposals: ``[P, 4]``.
        objects: of the image.
        samples: regions in the result; ``None`` (with hard-example mining) keeps all. Where candidates run short, the
            rest is drawn at random from all regions and counts as background, even on top of an object.
        positive_fraction: largest share of positives, with ``samples``.
        positive_iou: overlap from which a region is positive.
        lowest_negative_iou: overlap from which it is background.
        stds: what the deltas are divided by.
    """
    rois = torch.cat((proposals, objects.boxes))
    overlap = boxes.iou(rois, objects.boxes, pixel_offset=1)
    best, owner = overlap.max(1) if objects.labels.numel() else (rois.new_zeros(len(rois)), None)
    positive = (best >= positive_iou).nonzero()[:, 0]
    negative = ((best < positive_iou) & (best >= lowest_negative_iou)).nonzero()[:, 0]
    if samples is not None:
        positive = choose(positive, round(samples * positive_fraction))
        negative = choose(negative, samples - positive.numel())
    chosen = torch.cat((positive, negative))
    if samples is not None:
        chosen = _fill(chosen, samples, len(rois))
    labels = torch.zeros_like(chosen)
    deltas = rois.new_zeros(chosen.numel(), 4)
    if owner is not None:
        labels[: positive.numel()] = objects.labels[owner[positive]]
        wanted = objects.boxes[owner[positive]]
        deltas[: positive.numel()] = boxes.encode(rois[positive], wanted, stds=stds, pixel_offset=1)
    return RegionTargets(rois[chosen], labels, deltas)


def _fill(chosen: Tensor, count: int, candidates: int) -> Tensor:
    """``chosen`` extended to ``count`` by random indices below ``candidates``, without repetition in each round."""
    while chosen.numel() < count and candidates > 0:
        more = torch.randperm(candidates)[: count - chosen.numel()].to(chosen.device)
        chosen = torch.cat((chosen, more))
    return chosen
