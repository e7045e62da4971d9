"""Detectors and their parts."""

from __future__ import annotations

from dcn.models.detection.detector import Detector, Limits
from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.models.detection.pyramid.rcnn_fpn import rcnn_fpn
from dcn.models.detection.pyramid.specs import RoIHeadSpec, RPNSpec
from dcn.models.detection.specs import DetectionSpec
from dcn.models.detection.tta import TTADetector

__all__ = [
    "DetectionSpec",
    "Detector",
    "FasterRCNN",
    "Limits",
    "RPNSpec",
    "RoIHeadSpec",
    "TTADetector",
    "rcnn_fpn",
]
