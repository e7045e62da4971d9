"""Scores: average precision of detectors (VOC, COCO) and intersection over union of segmentations."""

from __future__ import annotations

from dcn.metrics.coco import CocoAP
from dcn.metrics.detection import DetectionMetric
from dcn.metrics.files import evaluate_files, write_coco_results, write_voc_results
from dcn.metrics.mask_files import evaluate_mask_files
from dcn.metrics.results import CocoResult, Result, SegmentationResult, VocResult
from dcn.metrics.segmentation import MeanIoU
from dcn.metrics.voc import VocAP, average_precision

__all__ = [
    "CocoAP",
    "CocoResult",
    "DetectionMetric",
    "MeanIoU",
    "Result",
    "SegmentationResult",
    "VocAP",
    "VocResult",
    "average_precision",
    "evaluate_files",
    "evaluate_mask_files",
    "write_coco_results",
    "write_voc_results",
]
