"""Anchor boxes: the shapes at one cell, and the grid of them over a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorShapes:
    """The anchors of a proposal network.

    Attributes:
        strides: pixels per cell of each level.
        scales: sides of the anchors in cells.
        ratios: height / width of the anchors.
    """

    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    scales: tuple[float, ...] = (8.0,)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    @property
    def per_cell(self) -> int:
        """How many anchors a cell has."""
        return len(self.scales) * len(self.ratios)


def cell_anchors(stride: int, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors of one cell as mmdetection defines them: centred on ``(0, 0)``, not rounded, continuous edges.

    Args:
        stride: distance of two cells in pixels; also the side of the base square.
        scales: multiples of that side.
        ratios: height / width.

    Returns:
        ``[len(ratios) * len(scales), 4]`` float32 xyxy; the ratio changes slowest.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    side = stride * torch.tensor(scales, dtype=torch.float32)[None]
    half = torch.stack((side / root, side * root), -1).flatten(0, 1) * 0.5
    return torch.cat((-half, half), -1)


def original_cell_anchors(stride: int, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors of one cell as Faster R-CNN and the papers' code define them: rounded, ``x2, y2`` the last pixel.

    The base box is ``(0, 0, stride - 1, stride - 1)``; for each ratio its width and then its height are rounded (half
    to even), and the result is scaled around the centre of the base box.

    Returns:
        ``[len(ratios) * len(scales), 4]`` float32 xyxy, inclusive; the ratio changes slowest.
    """
    width = np.round(np.sqrt(stride * stride / np.asarray(ratios, dtype=np.float64)))
    height = np.round(width * np.asarray(ratios, dtype=np.float64))
    side = np.stack((width, height), -1)[:, None] * np.asarray(scales, dtype=np.float64)[None, :, None]
    reach = 0.5 * (side.reshape(-1, 2) - 1)
    centre = 0.5 * (stride - 1)
    return torch.from_numpy(np.concatenate((centre - reach, centre + reach), -1)).float()


def grid_anchors(cell: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """The anchors ``cell`` repeated at every position of a map.

    Args:
        cell: ``[A, 4]``; the result has its dtype and device.
        size: ``(height, width)`` of the map.
        stride: pixels per step.

    Returns:
        ``[height * width * A, 4]`` in the order row, column, anchor.
    """
    height, width = size
    x = torch.arange(width, device=cell.device, dtype=cell.dtype) * stride
    y = torch.arange(height, device=cell.device, dtype=cell.dtype) * stride
    shift = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), -1).repeat(1, 1, 2)
    return (shift[:, :, None] + cell).view(-1, 4)


def inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """``[M]`` bool: which boxes ``[M, 4]`` lie in an image of ``(height, width)``: ``x1 >= 0``, ``x2 < width``."""
    height, width = size
    x1, y1, x2, y2 = anchors.unbind(1)
    return (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)
