"""Choice and targets of the regions that train a second stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcn.models.detection.shared.matcher import IGNORED, NOWHERE, LowQuality, match, overlaps, target_rows
from dcn.models.detection.shared.sampler import sample
from dcn.models.detection.shared.slots import Slots, joined, slots_of
from dcn.structures import Target


@dataclass(frozen=True)
class SampledRois:
    """Regions with their targets for the heads; image after image, positives first.

    Attributes:
        rois: ``[R, 5]``: index of the image, x1, y1, x2, y2; in empty slots the box is zeros.
        labels: ``[R]`` int64, the class; the number of classes stands for background, -1 for an empty slot.
        objects: ``[R]`` int64, index of the object in its image's target; -1 for background.
        boxes: ``[R, 4]``, the object's box; the region itself for background.
        is_object: ``[R]`` bool: the region is an annotated box that was added to the proposals.
        most_positive: a bound of the number of positives, known without asking for it; ``None``: ``R``.
    """

    rois: Tensor
    labels: Tensor
    objects: Tensor
    boxes: Tensor
    is_object: Tensor
    most_positive: int | None = None

    @property
    def positive(self) -> Tensor:
        """``[R]`` bool."""
        return self.objects >= 0

    @property
    def valid(self) -> Tensor:
        """``[R]`` bool: not an empty slot."""
        return self.labels >= 0

    def positives(self) -> SampledRois:
        """Only the positives; where shapes are fixed, in as many slots as there can be."""
        most = self.most_positive if self.most_positive is not None else self.labels.numel()
        chosen = slots_of(self.positive).first(most)
        labels, objects = chosen.of(self.labels, -1), chosen.of(self.objects, -1)
        return SampledRois(
            chosen.of(self.rois), labels, objects, chosen.of(self.boxes), chosen.of(self.is_object), most
        )


def sample_rois(
    proposals: Sequence[Tensor],
    targets: Sequence[Target],
    num_classes: int,
    *,
    count: int = 512,
    positive_fraction: float = 0.25,
    positive_iou: float = 0.5,
    low_quality: LowQuality = "none",
    valid: Sequence[Tensor] | None = None,
) -> SampledRois:
    """Matches proposals with objects, adds the objects themselves, and samples (mmdetection's rule).

    Args:
        proposals: ``[R_i, 4]`` per image.
        targets: one per image; every object counts.
        num_classes: label of background.
        count: regions per image, fewer if there are fewer.
        positive_fraction: largest share of positives.
        positive_iou: overlap from which a proposal is positive; below it is background.
        low_quality: see :func:`dcn.models.detection.shared.matcher.match`; ``positive_iou`` is required all the same.
        valid: ``[R_i]`` bool per image, which proposals there are; all by default.
    """
    parts: list[tuple[Tensor, ...]] = []
    there = valid or [torch.ones_like(proposal[:, 0], dtype=torch.bool) for proposal in proposals]
    for index, (proposal, target, filled) in enumerate(zip(proposals, targets, there, strict=True)):
        annotated = target.boxes.to(proposal.dtype)
        matched = match(
            overlaps(annotated, torch.where(filled[:, None], proposal, NOWHERE)),
            positive_iou=positive_iou,
            negative_iou=positive_iou,
            low_quality=low_quality,
            low_quality_iou=positive_iou,
        )
        matched = torch.where(filled, matched, IGNORED)
        candidates = torch.cat((annotated, proposal))
        matched = torch.cat((torch.arange(len(target), device=matched.device), matched))
        chosen = joined(*sample(matched, count, positive_fraction)).first(min(count, len(candidates)))
        parts.append(_described(index, candidates, chosen, matched, target, num_classes))
    rois, labels, objects, matched_boxes, is_object = (torch.cat(column) for column in zip(*parts, strict=True))
    most = len(parts) * int(count * positive_fraction)
    return SampledRois(rois, labels, objects, matched_boxes, is_object, most)


def _described(
    index: int, candidates: Tensor, chosen: Slots, matched: Tensor, target: Target, num_classes: int
) -> tuple[Tensor, ...]:
    """The attributes of :class:`SampledRois` for the ``chosen`` of the ``candidates`` ``[N, 4]`` of image ``index``."""
    objects = chosen.of(matched, -1).clamp(min=-1)
    positive, region = objects >= 0, chosen.of(candidates)
    labels = torch.where(positive, target_rows(target.labels, objects), num_classes)
    return (
        torch.cat((region.new_full((len(region), 1), index), region), 1),
        torch.where(chosen.valid, labels, -1),
        objects,
        torch.where(positive[:, None], target_rows(target.boxes.to(region.dtype), objects), region),
        chosen.valid & (chosen.indices < len(target)),
    )
