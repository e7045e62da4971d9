"""Segmentation of one image at several scales, with horizontal flips, and in windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dcn.models.preprocess import LEAST_SIDE
from dcn.models.segmentation.model import SegmentationModel
from dcn.tta import TTA, WINDOW_GRID, Scale


def segment(model: SegmentationModel, image: Tensor, tta: TTA) -> Tensor:
    """The class of every pixel.

    Args:
        model: in evaluation mode.
        image: ``[3, H, W]`` uint8 on the model's device, resized to the size at which the model looks at it.
        tta: scales (factors multiply the size of ``image``), flips and windows.

    Returns:
        ``[H, W]`` int64 on the same device. Beside it and the image, memory is that of one window.
    """
    height, width = image.shape[1:]
    window = tta.window or (height, width)
    factors = scale_factors(tta.scales, (height, width))
    labels = torch.empty(height, width, dtype=torch.int64, device=image.device)
    for top, bottom, first_row, last_row in spans(height, window[0], tta.overlap):
        for left, right, first_column, last_column in spans(width, window[1], tta.overlap):
            scores = _scores(model, image[:, top:bottom, left:right], factors, tta.flip).argmax(0)
            own = scores[first_row - top : last_row - top, first_column - left : last_column - left]
            labels[first_row:last_row, first_column:last_column] = own
    return labels


def scale_factors(scales: tuple[Scale, ...], size: tuple[int, int]) -> tuple[float, ...]:
    """The factor of each pass on the size of an image of ``(height, width)``; ``(1.0,)`` without scales."""
    short, long = min(size), max(size)
    return tuple(min(scale[0] / short, scale[1] / long) if isinstance(scale, tuple) else scale for scale in scales) or (
        1.0,
    )


def spans(length: int, window: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Windows along one side, and the part of each that counts.

    Args:
        length: of the side.
        window: of a window; the last one may be up to 15 pixels longer.
        overlap: least number of pixels that neighbours share.

    Returns:
        ``(start, stop, first, last)``: starts are multiples of 16, and ``first .. last`` meet halfway in the overlaps.
    """
    if window >= length:
        return [(0, length, 0, length)]
    step = (window - overlap) // WINDOW_GRID * WINDOW_GRID
    final = (length - window) // WINDOW_GRID * WINDOW_GRID
    starts = [*range(0, final, step), final]
    stops = [*(start + window for start in starts[:-1]), length]
    borders = [0, *((stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)), length]
    return list(zip(starts, stops, borders, borders[1:], strict=False))


def _scores(model: SegmentationModel, image: Tensor, factors: tuple[float, ...], flip: bool) -> Tensor:
    """Logits ``[C, h, w]``, or with several views the sum of their probabilities."""
    pixels: Tensor = model.preprocess([image]).pixels
    if factors == (1.0,) and not flip:
        return model.scores(pixels)[0]
    size = (pixels.shape[2], pixels.shape[3])
    total: Tensor | None = None
    for factor in factors:
        resized = _resized(pixels, (max(LEAST_SIDE, round(size[0] * factor)), max(LEAST_SIDE, round(size[1] * factor))))
        for flipped in (False, True) if flip else (False,):
            scores = model.scores(resized.flip(3) if flipped else resized).float().softmax(1)
            shares = _resized(scores.flip(3) if flipped else scores, size)
            total = shares if total is None else total.add_(shares)
    assert total is not None
    return total[0]


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
