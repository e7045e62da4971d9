"""Detectors and their parts."""

from __future__ import annotations

from dcn.models.detection.detector import Detector, Limits
from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.models.detection.pyramid.rcnn_fpn import rcnn_fpn
from dcn.models.detection.tta import TTADetector

__all__ = ["Detector", "FasterRCNN", "Limits", "TTADetector", "rcnn_fpn"]
