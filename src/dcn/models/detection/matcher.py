"""Which object each anchor or proposal belongs to."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

NEGATIVE = -1
IGNORED = -2

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
    matched = torch.full_like(index, IGNORED)
    matched[best < negative_iou] = NEGATIVE
    matched = torch.where(best >= positive_iou, index, matched)
    if low_quality == "none":
        return matched
    best_of_object = iou.max(1, keepdim=True).values
    # Few candidates tie, so their pairs are listed instead of working on [G, N] integers.
    owner, tied = ((iou == best_of_object) & (best_of_object >= low_quality_iou)).nonzero().unbind(1)
    if low_quality == "keep":
        matched[tied] = index[tied]
        return matched
    return matched.scatter_reduce(0, tied, owner, "amax", include_self=False)
