"""Networks that give every pixel a class."""

from __future__ import annotations

from dcn.models.segmentation.deeplab import DeepLab, deeplab
from dcn.models.segmentation.deeplabv3 import deeplabv3

__all__ = ["DeepLab", "deeplab", "deeplabv3"]
