"""Options of the original detectors as values, with the numbers of the original code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dcn.models.detection.original.rpn import OriginalRPNHead
from dcn.models.detection.shared.anchors import AnchorShapes
from dcn.models.detection.specs import DetectionSpec

NMS_IOU = 0.3
"""Overlap above which a detection suppresses another of its class."""

DETECTIONS = DetectionSpec(score_threshold=1e-3, test_size=(600, 1000))
"""What the detectors on one map return."""

PYRAMID_DETECTIONS = DetectionSpec(score_threshold=1e-3, test_size=(800, 1280))
"""What the original FPN returns."""


@dataclass(frozen=True, kw_only=True)
class OriginalRPNSpec:
    """The proposal network on one map of stride 16.

    Attributes:
        rpn_channels: of its 3x3 convolution.
        anchor_scales: sides of the anchors in cells of 16 pixels (VOC: 8, 16, 32).
        proposals: before and after suppression.
    """

    rpn_channels: int = 512
    anchor_scales: tuple[float, ...] = (4, 8, 16, 32)
    proposals: tuple[int, int] = (6000, 300)

    def build(self, in_channels: int) -> OriginalRPNHead:
        """The network with random weights on a map of ``in_channels``."""
        return OriginalRPNHead(
            in_channels,
            self.rpn_channels,
            anchors=AnchorShapes((16,), tuple(self.anchor_scales)),
            before_nms=self.proposals[0],
            after_nms=self.proposals[1],
        )


@dataclass(frozen=True, kw_only=True)
class PyramidRPNSpec:
    """The proposal network on five levels.

    Attributes:
        rpn_channels: of its 3x3 convolution.
        anchor_scale: side of the anchors in cells.
        proposals: before and after suppression, all levels together.
    """

    rpn_channels: int = 512
    anchor_scale: float = 8.0
    proposals: tuple[int, int] = (12000, 2000)

    def build(self, in_channels: int) -> OriginalRPNHead:
        """The network with random weights on maps of ``in_channels``."""
        return OriginalRPNHead(
            in_channels,
            self.rpn_channels,
            anchors=AnchorShapes((4, 8, 16, 32, 64), (self.anchor_scale,)),
            before_nms=self.proposals[0],
            after_nms=self.proposals[1],
            inside_only=False,
        )


@dataclass(frozen=True)
class FeatureMaps:
    """Which outputs of the neck are read.

    Attributes:
        rpn: by the proposal network.
        roi: by the second stage.
    """

    rpn: tuple[int, ...]
    roi: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RegionTraining:
    """How the second stage is trained.

    Attributes:
        rois_per_image: regions in its losses; ``None``: all, for ``hardest``.
        hardest: regions that hard-example mining leaves in the losses; ``None``: no mining.
        lowest_negative_iou: overlap with an object that background regions must have.
        lr_multipliers: factors on the learning rate by name of the parameter; 1 where not named.
    """

    rois_per_image: int | None = None
    hardest: int | None = 128
    lowest_negative_iou: float = 0.0
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rois_per_image is None and self.hardest is None:
            raise ValueError("rois_per_image, hardest: expected a number for at least one of them, got None twice")


MINED = RegionTraining()
"""The 128 hardest of all regions."""
