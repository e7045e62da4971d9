"""Options of the detectors on a feature pyramid as values, with the numbers of mmdetection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RoIPooling = Literal["align", "deform", "modulated"]
CascadeAverage = Literal["logits", "probabilities"]


@dataclass(frozen=True, kw_only=True)
class RPNSpec:
    """The proposal network.

    Attributes:
        anchor_scale: side of the anchors in cells.
        train_proposals: per level before, and per image after suppression, in training.
        test_proposals: the same in evaluation.
    """

    anchor_scale: float = 8.0
    train_proposals: tuple[int, int] = (2000, 1000)
    test_proposals: tuple[int, int] = (1000, 1000)


@dataclass(frozen=True, kw_only=True)
class RoIHeadSpec:
    """The second stage.

    Attributes:
        roi_pooling: ``"align"``, or deformable RoI pooling, plain (``"deform"``) or ``"modulated"``, for the box head.
        rois_per_image: regions sampled for its losses.
        fc_channels: of the box head, and of the offset branches of deformable RoI pooling.
        cascade_average: of the three heads of a cascade; other models have one head. ``"logits"``: the scores are the
            softmax of the averaged logits (mmdetection); ``"probabilities"``: the averaged scores (detectron2).
    """

    roi_pooling: RoIPooling = "align"
    rois_per_image: int = 512
    fc_channels: int = 1024
    cascade_average: CascadeAverage = "logits"
