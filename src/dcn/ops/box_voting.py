"""Iterative box averaging: detections move to the mean of the boxes that they suppressed."""

from __future__ import annotations

import torch
from torch import Tensor

from dcn import checks
from dcn.kernels.reference import nms as reference
from dcn.ops.nms import check_call, check_labels


def box_voting(
    kept: Tensor,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.5,
    *,
    kept_labels: Tensor | None = None,
    labels: Tensor | None = None,
    plus_one: bool = False,
) -> Tensor:
    """Iterative box averaging (Gidaris and Komodakis, 2015, section 3.3), which the paper uses on COCO test-dev.

    Each detection becomes the mean of all candidates that overlap it enough, weighted by their scores; a negative score
    counts as 0. Call it with ``kept`` from :func:`dcn.ops.nms` and ``boxes`` as they were before it.

    Args:
        kept: detections ``[K, 4]`` xyxy.
        boxes: candidates ``[N, 4]``, the detections among them.
        scores: of the candidates, ``[N]``.
        iou_threshold: a candidate votes when its overlap is at least this.
        kept_labels: ``[K]`` labels of the detections, given together with ``labels``: only candidates of one's own
            label vote.
        labels: ``[N]`` labels of the candidates.
        plus_one: widths are ``x2 - x1 + 1``.

    Returns:
        ``[K, 4]`` in the type of ``kept``; a detection without a vote of positive weight keeps its location.

    Raises:
        ValueError: a wrong shape, type, device or option.
    """
    check_call(boxes, scores, labels, iou_threshold, None)
    checks.ndim("kept", kept, 2, "[K, 4] (x1, y1, x2, y2)")
    checks.shape("kept", kept, (kept.shape[0], 4), "x1, y1, x2, y2")
    checks.floating("kept", kept)
    checks.same_device("kept", kept, boxes, "boxes")
    checks.flag("plus_one", plus_one)
    if (kept_labels is None) != (labels is None):
        raise ValueError("kept_labels, labels: expected both or neither, got only one of them")
    dtype = torch.float64 if torch.float64 in (kept.dtype, boxes.dtype) else torch.float32
    voters = boxes.detach().to(dtype)
    votes = reference.overlaps(kept.detach().to(dtype), voters, plus_one) >= iou_threshold
    if kept_labels is not None and labels is not None:
        check_labels("kept_labels", kept_labels, (kept.shape[0],), boxes)
        votes = votes & (kept_labels[:, None] == labels[None])
    weights = votes * scores.detach().to(dtype).nan_to_num(0.0).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    usable = torch.isfinite(voters).all(1, keepdim=True)
    mean = weights @ torch.where(usable, voters, 0.0) / total
    return torch.where(total > 0, mean, kept.to(dtype)).to(kept.dtype)
