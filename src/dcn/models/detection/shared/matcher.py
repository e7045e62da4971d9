"""Which object each anchor or proposal belongs to."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

NEGATIVE = -1
IGNORED = -2

NOWHERE = -1e6
"""All four corners of a box that overlaps no object, in whichever convention."""

LowQuality = Literal["none", "reassign", "keep"]


def match(
    iou: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality: LowQuality = "none",
    low_quality_iou: float = 0.0,
) -> Tensor:
    """Assigns candidates to objects by overlap.

    Args:
        iou: ``[G, N]`` overlap of ``G`` objects with ``N`` candidates.
        positive_iou: a candidate belongs to its best object from this overlap on.
        negative_iou: a candidate is background below this overlap.
        low_quality: whether the best candidates of an object (all that tie) are positive although they overlap less:
            ``"none"``: no; ``"reassign"``: yes, and they belong to that object even if they overlap another one more,
            the last such object winning (mmdetection); ``"keep"``: yes, but each belongs to the object that it
            overlaps most (the original code).
        low_quality_iou: overlap that the best candidates need for that.

    Returns:
        ``[N]`` int64: index of the object, ``NEGATIVE`` (-1) or ``IGNORED`` (-2). Without objects all are negative.
    """
    objects, candidates = iou.shape
    if objects == 0 or candidates == 0:
        return torch.full((candidates,), NEGATIVE, dtype=torch.int64, device=iou.device)
    best, index = iou.max(0)
    matched = torch.where(best >= positive_iou, index, torch.where(best < negative_iou, NEGATIVE, IGNORED))
    if low_quality == "none":
        return matched
    best_of_object = iou.amax(1, keepdim=True)
    tied = iou == torch.where(best_of_object >= low_quality_iou, best_of_object, torch.inf)
    if low_quality == "keep":
        return torch.where(tied.any(0), index, matched)
    # Half the memory of the overlaps, whose number is the largest of all.
    number = torch.arange(objects, dtype=torch.int16, device=iou.device)
    last = torch.where(tied, number[:, None], NEGATIVE).amax(0)
    return torch.where(last >= 0, last.long(), matched)


def target_rows(values: Tensor, owner: Tensor) -> Tensor:
    """``[K, ...]``: rows ``owner`` ``[K]`` of ``values`` ``[G, ...]``, one per object; zeros where it is negative."""
    padded = torch.cat((values, values.new_zeros(1, *values.shape[1:])))
    return padded[torch.where(owner < 0, len(values), owner)]
