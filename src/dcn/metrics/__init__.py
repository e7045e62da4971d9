"""Scores: average precision of detectors (VOC, COCO) and intersection over union of segmentations."""

from __future__ import annotations

from dcn.metrics.coco import CocoAP
from dcn.metrics.detection import DetectionMetric
from dcn.metrics.files import evaluate_files, write_coco_results, write_voc_results
from dcn.metrics.segmentation import MeanIoU
from dcn.metrics.voc import VocAP, average_precision

__all__ = [
    "CocoAP",
    "DetectionMetric",
    "MeanIoU",
    "VocAP",
    "average_precision",
    "evaluate_files",
    "write_coco_results",
    "write_voc_results",
]
