"""Choice and targets of the regions that train a second stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcn import boxes
from dcn.models.detection.matcher import LowQuality, match
from dcn.models.detection.sampler import sample
from dcn.structures import Target


@dataclass(frozen=True)
class SampledRois:
    """Regions with what the heads shall say about them; image after image, positives first.

    Attributes:
        rois: ``[R, 5]``: index of the image, x1, y1, x2, y2.
        labels: ``[R]`` int64, the class; the number of classes stands for background.
        objects: ``[R]`` int64, index of the object in its image's target; -1 for background.
        boxes: ``[R, 4]``, the object's box; the region itself for background.
        is_object: ``[R]`` bool: the region is an annotated box that was added to the proposals.
    """

    rois: Tensor
    labels: Tensor
    objects: Tensor
    boxes: Tensor
    is_object: Tensor

    @property
    def positive(self) -> Tensor:
        """``[R]`` bool."""
        return self.objects >= 0


def sample_rois(
    proposals: Sequence[Tensor],
    targets: Sequence[Target],
    num_classes: int,
    *,
    count: int = 512,
    positive_fraction: float = 0.25,
    positive_iou: float = 0.5,
    low_quality: LowQuality = "none",
) -> SampledRois:
    """Matches proposals with objects, adds the objects themselves, and samples (mmdetection's rule).

    Args:
        proposals: ``[R_i, 4]`` per image.
        targets: one per image; every object counts.
        num_classes: label of background.
        count: regions per image, fewer if there are fewer.
        positive_fraction: largest share of positives.
        positive_iou: overlap from which a proposal is positive; below it is background.
        low_quality: see :func:`dcn.models.detection.matcher.match`; ``positive_iou`` is required all the same.
    """
    parts: list[tuple[Tensor, ...]] = []
    for index, (proposal, target) in enumerate(zip(proposals, targets, strict=True)):
        wanted = target.boxes.to(proposal.dtype)
        matched = match(
            boxes.iou(wanted, proposal),
            positive_iou=positive_iou,
            negative_iou=positive_iou,
            low_quality=low_quality,
            low_quality_iou=positive_iou,
        )
        candidates = torch.cat((wanted, proposal))
        matched = torch.cat((torch.arange(len(target), device=matched.device), matched))
        positive, negative = sample(matched, count, positive_fraction)
        chosen, objects = torch.cat((positive, negative)), matched[positive]
        image = proposal.new_full((chosen.numel(), 1), index)
        parts.append(
            (
                torch.cat((image, candidates[chosen]), 1),
                torch.cat((target.labels[objects], torch.full_like(negative, num_classes))),
                torch.cat((objects, torch.full_like(negative, -1))),
                torch.cat((wanted[objects], candidates[negative])),
                chosen < len(target),
            )
        )
    return SampledRois(*(torch.cat(column) for column in zip(*parts, strict=True)))
