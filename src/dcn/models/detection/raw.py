"""What each kind of detector sees before it chooses: the starting point of test-time merging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.box_head import above_threshold
from dcn.models.detection.class_aware_rpn import NMS_IOU, ClassAwareRPN
from dcn.models.detection.faster_rcnn import FasterRCNN
from dcn.models.detection.original_detector import OriginalDetector
from dcn.models.detection.padded import Frames, Size, make_frames
from dcn.models.preprocess import ImageBatch
from dcn.structures import Detections


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
        return Limits(NMS_IOU, model.max_detections)
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
    found: dict[int, Detections] = {}
    for members in model.preprocess.groups(images):
        batch = model.preprocess([images[index] for index in members])
        frames = _frames(model, batch, [output_sizes[index] for index in members])
        for index, box, scores in zip(members, *model.candidates(batch.pixels, frames), strict=True):
            inclusive, score, label = above_threshold(box, scores, score_threshold)
            found[index] = Detections(boxes.from_inclusive(inclusive), score, label)
    return [found[index] for index in range(len(images))]


def _frames(model: OriginalDetector | ClassAwareRPN, batch: ImageBatch, output_sizes: Sequence[Size]) -> Frames:
    if isinstance(model, OriginalDetector):
        return model.frames(batch, output_sizes)
    return make_frames(batch.sizes, output_sizes, batch.pixels.device)
