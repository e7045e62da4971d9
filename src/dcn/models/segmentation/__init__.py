"""Models that give every pixel a class."""

from __future__ import annotations

from dcn.models.segmentation.deeplab import DeepLab, deeplab
from dcn.models.segmentation.deeplabv3 import deeplabv3
from dcn.models.segmentation.inference import segment
from dcn.models.segmentation.model import SegmentationModel

__all__ = ["DeepLab", "SegmentationModel", "deeplab", "deeplabv3", "segment"]
