"""What each kind of detector sees before it chooses: the starting point of test-time merging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.box_head import above_threshold
from dcn.models.detection.class_aware_rpn import ClassAwareRPN
from dcn.models.detection.faster_rcnn import FasterRCNN
from dcn.models.detection.original_detector import OriginalDetector, to_rois
from dcn.models.detection.original_rpn import decode
from dcn.models.detection.original_targets import STDS
from dcn.structures import Detections

Size = tuple[int, int]


@dataclass(frozen=True)
class Limits:
    """How a detector chooses when nothing else is said.

    Attributes:
        nms_iou: overlap above which a detection suppresses another of its class.
        max_detections: per image.
    """

    nms_iou: float
    max_detections: int


def limits_of(model: nn.Module) -> Limits:
    """The detector's own limits.

    Raises:
        ValueError: for a network that finds no boxes.
    """
    if isinstance(model, FasterRCNN):
        return Limits(model.roi_head.nms_iou, model.roi_head.max_detections)
    if isinstance(model, OriginalDetector):
        return Limits(model.nms_iou, model.max_detections)
    if isinstance(model, ClassAwareRPN):
        return Limits(0.3, model.max_detections)
    raise ValueError(f"model: expected a detector, got {type(model).__name__}; test-time options are about boxes")


@torch.no_grad()
def raw_detections(
    model: nn.Module, images: Sequence[Tensor], output_sizes: Sequence[Size], score_threshold: float
) -> list[Detections]:
    """Every box of every class whose score is larger than the threshold: no suppression, no masks, in no order.

    Args:
        model: a detector in evaluation mode.
        images: ``[3, h_i, w_i]`` uint8 RGB; they are not resized.
        output_sizes: ``(height, width)`` per image, in whose pixels boxes are wanted.
        score_threshold: scores must be larger.

    Returns:
        Boxes with continuous edges. Those of the original networks, whose boxes are inclusive, may reach one pixel
        beyond the image: clip them after suppression, as the original does.

    Raises:
        ValueError: for a network that finds no boxes.
    """
    if isinstance(model, FasterRCNN):
        return model.raw_detections(images, output_sizes, score_threshold)
    if not isinstance(model, OriginalDetector | ClassAwareRPN):
        raise ValueError(f"model: expected a detector, got {type(model).__name__}; test-time options are about boxes")
    candidates = _of_original if isinstance(model, OriginalDetector) else _of_class_aware
    found: dict[int, Detections] = {}
    for members in model.preprocess.groups(images):
        parts = [images[index] for index in members]
        rows = candidates(model, parts, [output_sizes[index] for index in members])  # type: ignore[arg-type]  # chosen by the type of model
        for index, (box, scores) in zip(members, rows, strict=True):
            inclusive, score, label = above_threshold(box, scores, score_threshold)
            found[index] = Detections(boxes.from_inclusive(inclusive), score, label)
    return [found[index] for index in range(len(images))]


def _of_original(
    model: OriginalDetector, images: Sequence[Tensor], output_sizes: Sequence[Size]
) -> list[tuple[Tensor, Tensor]]:
    """Inclusive boxes ``[R, K, 4]`` and scores ``[R, C]`` of images that share a padding."""
    batch = model.preprocess(images)
    sizes = [batch.padded_size(i) for i in range(len(images))] if model.padding_counts else batch.sizes
    rpn_maps, roi_maps = model.features(batch.pixels)
    proposals = model.rpn_head.proposals(model.rpn_head(rpn_maps), sizes)
    logits, deltas = model.roi_head(roi_maps, to_rois(proposals))
    counts = [len(proposal) for proposal in proposals]
    # Index 1 of a class-agnostic head serves every class; index 0 is the background.
    chosen = deltas[:, 1:2] if model.roi_head.class_agnostic else deltas[:, 1:]
    rows = zip(proposals, chosen.split(counts), sizes, strict=True)
    decoded = [decode(proposal[:, None], moves, size, STDS) for proposal, moves, size in rows]
    scaled = [boxes.scale(*row) for row in zip(decoded, batch.sizes, output_sizes, strict=True)]
    return list(zip(scaled, logits.softmax(1)[:, 1:].split(counts), strict=True))


def _of_class_aware(
    model: ClassAwareRPN, images: Sequence[Tensor], output_sizes: Sequence[Size]
) -> list[tuple[Tensor, Tensor]]:
    """Inclusive boxes ``[R, 1, 4]`` and scores ``[R, C]`` of the best anchors of images that share a padding."""
    batch = model.preprocess(images)
    output = model.rpn_head([model.neck(model.backbone(batch.pixels))])
    rows = []
    for index, (size, output_size) in enumerate(zip(batch.sizes, output_sizes, strict=True)):
        scores = output.logits[index].softmax(1)[:, 1:]
        best = scores.amax(1).topk(min(model.rpn_head.before_nms, len(scores))).indices
        decoded = decode(output.anchors[best], output.deltas[index, best], size)
        rows.append((boxes.scale(decoded, size, output_size)[:, None], scores[best]))
    return rows
