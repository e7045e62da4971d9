"""Detectors and their parts."""

from __future__ import annotations

from dcn.models.detection.faster_rcnn import FasterRCNN, rcnn_fpn

__all__ = ["FasterRCNN", "rcnn_fpn"]
