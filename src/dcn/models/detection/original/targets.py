"""Targets of anchors and regions, by the rules of the original MXNet code. Boxes are inclusive throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcn import boxes
from dcn.models.detection.shared.anchors import inside
from dcn.models.detection.shared.fixed_shapes import to_device
from dcn.models.detection.shared.matcher import IGNORED, NEGATIVE, NOWHERE, match, overlaps, target_rows
from dcn.models.detection.shared.sampler import choose, random_keys, sample
from dcn.models.detection.shared.slots import Slots, joined, slots_of
from dcn.structures import Target

STDS = (0.1, 0.1, 0.2, 0.2)
"""What the four regression targets of regions are divided by (precomputed, means 0)."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image in the original's form.

    Attributes:
        boxes: ``[G, 4]`` float32, inclusive, rounded to whole pixels of the model's input and inside of it.
        labels: ``[G]`` int64, ``1 .. C`` (0 is background).
    """

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class AnchorTargets:
    """The targets of ``M`` anchors.

    Attributes:
        labels: ``[M]`` int64: 0 background, 1 and above the class, -1 not sampled.
        deltas: ``[M, 4]``; defined where the label is positive.
    """

    labels: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class RegionTargets:
    """Regions of one image with their targets for the second stage.

    Attributes:
        rois: ``[R, 4]`` inclusive; zeros in empty slots.
        labels: ``[R]`` int64: 0 background, 1 and above the class, -1 left out of the loss (or an empty slot).
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
    objects = rounded[kept], target.labels[kept] + 1
    return Objects(*(to_device(value, device) for value in objects))


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
    usable = inside(anchors, size) if inside_only else torch.ones_like(anchors[:, 0], dtype=torch.bool)
    chosen = slots_of(usable)
    overlap = overlaps(objects.boxes, chosen.of(anchors, NOWHERE), pixel_offset=1)
    owners = match(overlap, positive_iou=positive_iou, negative_iou=negative_iou, low_quality="keep")
    matched = chosen.spread(owners, len(anchors), IGNORED)
    if samples is None:
        positive, negative = slots_of(matched >= 0), slots_of(matched == NEGATIVE)
    else:
        positive, negative = sample(matched, samples, 0.5)
    owner = matched[positive.indices]
    classes = target_rows(objects.labels, owner) if class_aware else torch.ones_like(owner)
    labels = torch.cat((classes, torch.zeros_like(negative.indices)))
    deltas = boxes.encode(anchors[positive.indices], target_rows(objects.boxes, owner), pixel_offset=1)
    return AnchorTargets(
        joined(positive, negative).spread(labels, len(anchors), -1), positive.spread(deltas, len(anchors), 0)
    )


def assign_regions(
    proposals: Tensor,
    objects: Objects,
    *,
    samples: int | None = None,
    positive_fraction: float = 0.25,
    positive_iou: float = 0.5,
    lowest_negative_iou: float = 0.0,
    stds: Sequence[float] = STDS,
    valid: Tensor | None = None,
) -> RegionTargets:
    """Labels and regression targets of proposals and of the objects themselves, which are added; positives first.

    Args:
        proposals: ``[P, 4]``.
        objects: of the image.
        samples: regions in the result; ``None`` (with hard-example mining) keeps all. Where candidates run short, the
            rest is chosen at random from all regions and counts as background, even on top of an object.
        positive_fraction: largest share of positives, with ``samples``.
        positive_iou: overlap from which a region is positive.
        lowest_negative_iou: overlap from which it is background.
        stds: what the deltas are divided by.
        valid: ``[P]`` bool, which proposals there are; all by default.
    """
    rois = torch.cat((proposals, objects.boxes))
    usable = torch.ones_like(rois[:, 0], dtype=torch.bool)
    if valid is not None:
        usable[: len(valid)] = valid
    best, owner = _best_object(rois, objects)
    positive = usable & (best >= positive_iou)
    negative = usable & (best < positive_iou) & (best >= lowest_negative_iou)
    if samples is None:
        first = slots_of(positive)
        chosen = joined(first, slots_of(negative)).first(len(rois))
    else:
        first, second = _sample_regions(positive, negative, samples, positive_fraction)
        chosen = _fill(joined(first, second), samples, usable)
    # The objects come first; what fills up is background even on top of an object.
    is_object = torch.arange(chosen.valid.numel(), device=rois.device) < first.valid.sum()
    owner = torch.where(is_object, owner[chosen.indices], -1)
    labels = torch.where(chosen.valid, target_rows(objects.labels, owner), -1)
    matched = target_rows(objects.boxes, owner)
    deltas = boxes.encode(rois[chosen.indices], matched, stds=stds, pixel_offset=1)
    return RegionTargets(chosen.of(rois), labels, torch.where(is_object[:, None], deltas, 0.0))


def _best_object(rois: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
    """``[R]``: the largest overlap of each region with an object, and that object (-1 without any)."""
    if objects.labels.numel() == 0:
        return torch.zeros_like(rois[:, 0]), torch.full_like(rois[:, 0], -1, dtype=torch.int64)
    best, owner = boxes.iou(rois, objects.boxes, pixel_offset=1).max(1)
    return best, owner


def _sample_regions(positive: Tensor, negative: Tensor, count: int, fraction: float) -> tuple[Slots, Slots]:
    keys = random_keys(positive.numel(), positive.device)
    first = choose(positive, keys, round(count * fraction))
    return first, choose(negative, keys, count, count - first.valid.sum())


def _fill(chosen: Slots, count: int, usable: Tensor) -> Slots:
    """``count`` slots, the missing ones by random ``usable`` rows, each as often as the others or once more.

    Without usable rows they stay empty.
    """
    filled = chosen.first(count)
    missing = count - filled.valid.numel()
    padding = filled.indices.new_zeros(missing)
    indices, valid = torch.cat((filled.indices, padding)), torch.cat((filled.valid, padding.bool()))
    keys = random_keys(usable.numel(), usable.device)
    if usable.numel() == 0:
        return Slots(indices, valid).trimmed()
    rows = torch.where(usable, keys, -1.0).argsort(descending=True)
    slot = torch.arange(count, device=usable.device) - valid.sum()
    more = rows[slot.remainder(usable.sum().clamp(min=1))]
    return Slots(torch.where(valid, indices, more), valid | usable.any()).trimmed()
