"""Features of regions of interest, each from the level of a pyramid that fits its size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcn import boxes, ops
from dcn.models.detection.shared.regions import pool_by_level


def pyramid_level(box: Tensor, levels: int, finest_scale: float = 56.0) -> Tensor:
    """Level ``[R]`` int64 of each box ``[R, 4]``: ``floor(log2(sqrt(w h) / finest_scale + 1e-6))``, clamped.

    FPN's equation 1 with ``k0 = 4`` for 224 pixels on a pyramid that starts at level 2, as mmdetection computes it.
    """
    side = boxes.areas(box).clamp(min=0).sqrt()
    return torch.floor(torch.log2(side / finest_scale + 1e-6)).clamp(0, levels - 1).long()


class RoIAlign(nn.Module):
    """:func:`dcn.ops.roi_align` in the form of mmdetection: aligned, sampling points chosen by the size of the bins.

    Args:
        output_size: bins along each side.
        stride: pixels per cell of the map.
    """

    def __init__(self, output_size: int, stride: int) -> None:
        super().__init__()
        self.output_size, self.stride = output_size, stride

    def forward(self, feature: Tensor, rois: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` and regions ``[R, 5]`` to ``[R, C, output_size, output_size]``."""
        return ops.roi_align(feature, rois, self.output_size, 1 / self.stride, sampling_ratio=0, aligned=True)


class RoIExtractor(nn.Module):
    """Pools every region from one level.

    Args:
        roi_layers: for each level, finest first, a module ``(map [N, C, H, W], rois [R, 5]) -> [R, C, k, k]``.
        finest_scale: regions below twice this side, in pixels, are taken from the finest level.
    """

    def __init__(self, roi_layers: Sequence[nn.Module], finest_scale: float = 56.0) -> None:
        super().__init__()
        self.roi_layers = nn.ModuleList(roi_layers)
        self.repeated_work = len(roi_layers)  # with fixed shapes every level is given all regions
        self.finest_scale = finest_scale

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps (the first ``len(roi_layers)`` are used) and regions ``[R, 5]`` to ``[R, C, k, k]`` in their order."""
        level = pyramid_level(rois[:, 1:], len(self.roi_layers), self.finest_scale)
        return pool_by_level(features, rois, level, self.roi_layers)
