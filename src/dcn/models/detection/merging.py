"""Pre-NMS detections of one image, from several scales and horizontal flips, into final ones.

Everything here works on the boxes of all passes before suppression: the original code's FPN stacks the pre-NMS
detections of all scales and suppresses once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dcn import boxes, ops
from dcn.structures import Detections

Suppression = Literal["nms", "soft_nms_linear", "soft_nms_gaussian"]


@dataclass(frozen=True)
class MergeRule:
    """How pre-NMS detections become final ones.

    Attributes:
        suppression: ``"nms"``, or soft-NMS (Bodla et al., 2017) with either decay.
        iou: overlap above which a box suppresses (or, with ``"soft_nms_linear"``, weakens) another of its class.
        sigma: width of the Gaussian decay; the original FPN calls it with 0.6.
        box_voting: overlap from which boxes vote in iterative box averaging (Gidaris and Komodakis, 2015);
            ``None``: no averaging.
        class_thresholds: score threshold by label; labels that are not named have none.
        max_per_image: how many detections are kept.
    """

    suppression: Suppression = "nms"
    iou: float = 0.5
    sigma: float = 0.5
    box_voting: float | None = None
    class_thresholds: tuple[tuple[int, float], ...] = ()
    max_per_image: int = 100


def merge_detections(parts: Sequence[Detections], size: tuple[int, int], rule: MergeRule) -> Detections:
    """The final detections of one image.

    Args:
        parts: pre-NMS detections in the same pixels, one entry per scale or horizontal flip.
        size: ``(height, width)`` of the image in whose pixels they are; the result is clipped to it.
        rule: see :class:`MergeRule`.

    Returns:
        Detections without masks, best first. Soft-NMS lowers scores and drops nothing but what exceeds
        ``max_per_image`` or falls below its class's threshold, as in the original.
    """
    box = torch.cat([part.boxes for part in parts])
    score = torch.cat([part.scores for part in parts])
    label = torch.cat([part.labels for part in parts])
    keep, rescored = _suppress(box, score, label, rule)
    kept = box[keep]
    if rule.box_voting is not None:
        kept = ops.box_voting(kept, box, score, rule.box_voting, kept_labels=label[keep], labels=label)
    return Detections(boxes.clip(kept, size), rescored, label[keep])


def _suppress(box: Tensor, score: Tensor, label: Tensor, rule: MergeRule) -> tuple[Tensor, Tensor]:
    """Indices of the survivors and their scores, best first; classes of one threshold are worked on together."""
    least = torch.zeros_like(score)
    for index, threshold in rule.class_thresholds:
        least[label == index] = threshold
    kept, scores = [label.new_empty(0)], [score.new_empty(0)]
    for threshold in least.unique().tolist():
        # A box below its threshold could never weaken one above it: the better box is taken first.
        group = ((least == threshold) & (score >= threshold)).nonzero()[:, 0]
        chosen, values = _suppress_group(box[group], score[group], label[group], threshold, rule)
        kept.append(group[chosen])
        scores.append(values)
    survivors, rescored = torch.cat(kept), torch.cat(scores)
    order = rescored.argsort(descending=True, stable=True)[: rule.max_per_image]
    return survivors[order], rescored[order]


def _suppress_group(
    box: Tensor, score: Tensor, label: Tensor, threshold: float, rule: MergeRule
) -> tuple[Tensor, Tensor]:
    most = rule.max_per_image
    if rule.suppression == "nms":
        keep = ops.nms(box, score, rule.iou, label, max_output=most)
        return keep, score[keep]
    method: Literal["linear", "gaussian"] = "linear" if rule.suppression == "soft_nms_linear" else "gaussian"
    return ops.soft_nms(
        box,
        score,
        method,
        sigma=rule.sigma,
        iou_threshold=rule.iou,
        min_score=threshold,
        max_output=most,
        labels=label,
    )
