"""Networks that give every pixel a class."""

from __future__ import annotations

from dcn.models.segmentation.deeplab import DeepLab, deeplab

__all__ = ["DeepLab", "deeplab"]
