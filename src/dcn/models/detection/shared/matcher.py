"""Which object each anchor or proposal belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from dcn import boxes

NEGATIVE = -1
IGNORED = -2

NOWHERE = -1e6
"""All four corners of a box that overlaps no object, in whichever convention."""

_MOST_OVERLAPS = 1 << 24  # 64 MB of float32; 270,000 anchors and 62 objects
_MOST_OBJECTS = 1 << 15  # of one block: their numbers are int16

LowQuality = Literal["none", "reassign", "keep"]


def overlaps(objects: Tensor, candidates: Tensor, pixel_offset: int = 0) -> Iterator[Tensor]:
    """``[g, N]``: the overlap of some objects of ``[G, 4]`` at a time with candidates ``[N, 4]``, for :func:`match`.

    Thousands of objects on hundreds of thousands of anchors would take gigabytes at once.
    """
    for some in objects.split(max(1, min(_MOST_OVERLAPS // max(1, len(candidates)), _MOST_OBJECTS))):
        yield boxes.iou(some, candidates, pixel_offset)


def match(
    iou: Tensor | Iterable[Tensor],
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality: LowQuality = "none",
    low_quality_iou: float = 0.0,
) -> Tensor:
    """Assigns candidates to objects by overlap.

    Args:
        iou: ``[G, N]`` overlap of ``G`` objects with ``N`` candidates, or :func:`overlaps`.
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
    blocks = iter((iou,) if isinstance(iou, Tensor) else iou)
    block = next(blocks)
    first, candidates = block.shape
    if first == 0 or candidates == 0:
        return torch.full((candidates,), NEGATIVE, dtype=torch.int64, device=block.device)
    best, index = block.max(0)
    last = None if low_quality == "none" else _last_tied(block, low_quality_iou)
    for block in blocks:
        value, owner = block.max(0)
        index = torch.where(value > best, owner + first, index)
        best = torch.maximum(best, value)
        if last is not None:
            later = _last_tied(block, low_quality_iou)
            last = torch.where(later >= 0, later + first, last)
        first += len(block)
    matched = torch.where(best >= positive_iou, index, torch.where(best < negative_iou, NEGATIVE, IGNORED))
    if last is None:
        return matched
    return torch.where(last >= 0, index if low_quality == "keep" else last, matched)


def _last_tied(iou: Tensor, low_quality_iou: float) -> Tensor:
    """``[N]`` int64: the last of the objects whose best candidate it is, or one of the best; negative where none."""
    best_of_object = iou.amax(1, keepdim=True)
    tied = iou == torch.where(best_of_object >= low_quality_iou, best_of_object, torch.inf)
    # Half the memory of the overlaps, whose number is the largest of all.
    number = torch.arange(len(iou), dtype=torch.int16, device=iou.device)
    return torch.where(tied, number[:, None], NEGATIVE).amax(0).long()


def target_rows(values: Tensor, owner: Tensor) -> Tensor:
    """``[K, ...]``: rows ``owner`` ``[K]`` of ``values`` ``[G, ...]``, one per object; zeros where it is negative."""
    padded = torch.cat((values, values.new_zeros(1, *values.shape[1:])))
    return padded[torch.where(owner < 0, len(values), owner)]
