"""COCO segmentations (polygons, run lengths) to boolean masks and back, through hotcoco; each checked before use."""

from __future__ import annotations

from typing import Any

import hotcoco.mask
import numpy as np
import torch
from torch import Tensor


def decode_mask(segmentation: object, size: tuple[int, int]) -> Tensor:
    """One COCO segmentation as ``[H, W]`` bool.

    Args:
        segmentation: a list of polygons ``[x1, y1, x2, y2, ...]`` (their union is meant), or a run-length object
            ``{"size": [H, W], "counts": text or list}``.
        size: ``(height, width)`` of the image.

    Raises:
        ValueError: neither of the two, a polygon of fewer than three points or far outside the image, a run-length
            code that is malformed or of another size.
    """
    height, width = size
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("'segmentation' is missing or empty; load boxes alone with masks=False")
    polygons = [_polygon(points, size) for points in segmentation]
    runs = hotcoco.mask.merge(hotcoco.mask.frPyObjects(polygons, height, width))
    return torch.from_numpy(np.ascontiguousarray(hotcoco.mask.decode(runs))).bool()


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """``[H, W]`` bool as a compressed run-length object that JSON can hold."""
    runs = hotcoco.mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    counts = runs["counts"]
    return {"size": list(mask.shape), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _polygon(points: object, size: tuple[int, int]) -> list[float]:
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        raise ValueError("'segmentation': expected polygons of three or more points [x1, y1, x2, y2, x3, y3, ...]")
    # A rasteriser walks along every edge: a far point would cost its distance in time and memory.
    limit = 2 * max(size)
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= limit for v in points):
        raise ValueError(f"'segmentation': expected finite coordinates no further than {limit} pixels from the origin")
    return [float(v) for v in points]


def _from_runs(runs: dict[str, Any], size: tuple[int, int]) -> Tensor:
    if runs.get("size") != list(size):
        raise ValueError(f"'segmentation': run lengths of size {runs.get('size')}, the image has {list(size)}")
    counts = runs.get("counts")
    if isinstance(counts, list):
        counts = _counts(counts, size)
    elif not isinstance(counts, str):
        raise ValueError(f"'segmentation': 'counts' must be a text or a list of integers, got {type(counts).__name__}")
    elif not all("0" <= character <= "o" for character in counts):  # six bits a character, counted from "0"
        raise ValueError("'segmentation': malformed run lengths (a character outside '0' to 'o')")
    try:
        compressed = hotcoco.mask.frPyObjects({"size": list(size), "counts": counts}, *size)
        return torch.from_numpy(np.ascontiguousarray(hotcoco.mask.decode(compressed))).bool()
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"'segmentation': malformed run lengths ({error})") from error


def _counts(counts: list[Any], size: tuple[int, int]) -> list[int]:
    if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in counts):
        raise ValueError("'segmentation': 'counts' must be integers >= 0")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"'segmentation': the run lengths add up to {sum(counts)}, expected {size[0] * size[1]}")
    return counts
