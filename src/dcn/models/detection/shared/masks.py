"""Masks of detections: from probabilities inside of the boxes to pixels of the image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Resamples masks into their boxes (bilinear, pixel centres).

    Args:
        masks: ``[D, m, m]`` probabilities.
        boxes: ``[D, 4]`` in pixels of the result.
        size: ``(height, width)`` of the result.
        threshold: a pixel belongs to the object from this probability on.

    Returns:
        ``[D, height, width]`` bool.
    """
    pasted = torch.zeros(masks.shape[0], *size, dtype=torch.bool, device=masks.device)
    # A loop over at most 100 boxes: one grid over the whole image for all would be 100 times 1,000,000 points.
    for canvas, mask, box in zip(pasted, masks.float(), boxes.tolist(), strict=True):
        (left, x), (top, y) = (_centres(box[axis], box[axis + 2], size[1 - axis]) for axis in (0, 1))
        grid = torch.stack((x.expand(y.numel(), -1), y[:, None].expand(-1, x.numel())), -1).to(mask.device)
        if grid.numel():
            probability = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
            canvas[top : top + y.numel(), left : left + x.numel()] = probability >= threshold
    return pasted


def _centres(low: float, high: float, limit: int) -> tuple[int, Tensor]:
    """The first pixel that a box side reaches, and the centres of all pixels there in ``-1 .. 1`` of that side."""
    first, last = max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, limit)
    centres = torch.arange(first, max(last, first), dtype=torch.float32) + 0.5
    return first, (centres - low) / max(high - low, 1e-6) * 2 - 1
