"""The selection of final detections from scored boxes, for a whole batch; the host does not wait for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcn import boxes, ops
from dcn.models.detection.shared.padded_detections import PaddedDetections


@dataclass(frozen=True)
class SelectionRule:
    """How detections are selected.

    Attributes:
        score_threshold: scores must be larger.
        nms_iou: overlap above which a box suppresses a weaker one of its class.
        max_detections: per image.
        original: the rule of the original MXNet code: boxes are inclusive, and detections that tie with the last one
            are kept beyond ``max_detections``.
    """

    score_threshold: float
    nms_iou: float
    max_detections: int
    original: bool = False


def select_detections(
    candidates: Tensor, scores: Tensor, output_sizes: Tensor, rule: SelectionRule
) -> PaddedDetections:
    """Threshold, non-maximum suppression per class, and the best of what is left.

    Args:
        candidates: ``[N, P, K, 4]`` in pixels of the output, with ``K`` either 1 or the number of classes; inclusive by
            the original rule.
        scores: ``[N, P, C]``, without background; -1 in slots that do not count.
        output_sizes: ``[N, 2]`` (height, width); by the original rule boxes are clipped to them at the end.
        rule: see :class:`SelectionRule`.

    Returns:
        Detections best first, with continuous edges; equal scores in the order of regions, then of classes.
    """
    classes = scores.shape[2]
    keep = _keep(candidates, scores, rule)
    rank = torch.where(keep, scores.nan_to_num(0.0), -1.0).flatten(1)
    value, order = rank.sort(dim=1, descending=True, stable=True)
    most = min(rule.max_detections, value.shape[1])
    valid = value >= 0
    if rule.original and most:
        valid &= value >= value[:, most - 1 : most]
    else:
        value, order, valid = value[:, :most], order[:, :most], valid[:, :most]
    label = order % classes if classes else order
    row = order if candidates.shape[2] > 1 else order.div(max(classes, 1), rounding_mode="floor")
    box = candidates.flatten(1, 2).gather(1, row[..., None].expand(-1, -1, 4))
    if rule.original:
        box = boxes.clip_batch(boxes.from_inclusive(box), output_sizes)
    return PaddedDetections(box, value, label, valid)


def _keep(candidates: Tensor, scores: Tensor, rule: SelectionRule) -> Tensor:
    """``[N, P, C]`` bool: what the threshold and the suppression leave. Every class of every image is a set."""
    ranked = scores.transpose(1, 2)
    sets = candidates.transpose(1, 2).expand(*ranked.shape, 4)
    valid = ranked > rule.score_threshold
    kept = ops.nms_keep(sets, ranked, rule.nms_iou, valid=valid, plus_one=rule.original)
    return kept.transpose(1, 2)


def above_threshold(candidates: Tensor, scores: Tensor, min_score: float) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of a region and a class whose score is larger than the threshold, in the order of the regions.

    Args:
        candidates: ``[R, K, 4]``, with ``K`` either 1 or the number of classes.
        scores: ``[R, num_classes]``, without background.
        min_score: scores must be larger.

    Returns:
        boxes ``[D, 4]``, scores ``[D]`` and labels ``[D]``.
    """
    row, label = (scores > min_score).nonzero().unbind(1)
    box = candidates[row, label if candidates.shape[1] > 1 else torch.zeros_like(label)]
    return box, scores[row, label], label
