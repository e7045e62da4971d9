"""Pictures: detections, masks, sampling points, RoI parts, diagrams and the report page."""

from __future__ import annotations

from dcn.nn.grids import Grid
from dcn.vis.detections import contact_sheet, draw_detections
from dcn.vis.masks import color_map, draw_segmentation, write_index_png
from dcn.vis.offsets import OffsetStatistics, offset_heatmap, offset_statistics
from dcn.vis.palette import cityscapes_palette, class_color, voc_palette
from dcn.vis.plots import (
    bar_panels,
    calibration_curve,
    confusion_matrix,
    field_maps,
    histogram,
    intervals,
    loss_curves,
    metric_curves,
    precision_recall,
    spread_bars,
)
from dcn.vis.recording import LayerOffsets, record_offsets
from dcn.vis.rois import draw_roi_parts, roi_parts
from dcn.vis.sampling_points import PointLevel, SamplingPoints, draw_sampling_points, sampling_points

__all__ = [
    "Grid",
    "LayerOffsets",
    "OffsetStatistics",
    "PointLevel",
    "SamplingPoints",
    "bar_panels",
    "calibration_curve",
    "cityscapes_palette",
    "class_color",
    "color_map",
    "confusion_matrix",
    "contact_sheet",
    "draw_detections",
    "draw_roi_parts",
    "draw_sampling_points",
    "draw_segmentation",
    "field_maps",
    "histogram",
    "intervals",
    "loss_curves",
    "metric_curves",
    "offset_heatmap",
    "offset_statistics",
    "precision_recall",
    "record_offsets",
    "roi_parts",
    "sampling_points",
    "spread_bars",
    "voc_palette",
    "write_index_png",
]
