"""Instance masks as COCO writes them (polygons, run lengths) and masks of classes as index PNGs; checked before use.

`check_segmentation` looks at every number without making a mask: what passes it can be decoded. Decoding is done by
the library ``hotcoco``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcn.extras import require
from dcn.formats.fields import LARGEST
from dcn.formats.problems import short

MAX_MASK_BYTES = 4 * 2**30
"""Largest ``[N, H, W]`` stack of masks of one image: 4 GB."""

_NUMBERS = {int, float}


def is_outline(segmentation: object) -> bool:
    """Whether there is an outline at all; tools that export boxes alone write ``null``, ``[]``, ``[[]]`` or ``{}``."""
    if isinstance(segmentation, list):
        return any(part != [] for part in segmentation)
    return segmentation not in (None, {}, "")


def check_segmentation(segmentation: object, size: tuple[int, int]) -> None:
    """Refuse a segmentation that cannot be decoded.

    Args:
        segmentation: a list of polygons ``[x1, y1, x2, y2, ...]`` (their union is meant), or a run-length object
            ``{"size": [H, W], "counts": text or list}``.
        size: ``(height, width)`` of the image.

    Raises:
        ValueError: neither of the two, a polygon of fewer than three points or far outside of the image, run lengths
            that are malformed or of another size.
    """
    if isinstance(segmentation, dict):
        _check_runs(segmentation, size)
        return
    if not is_outline(segmentation):
        got = "none" if segmentation is None else short(segmentation)
        raise ValueError(
            f"'segmentation': expected polygons or run lengths, got {got}; load boxes alone with masks=False"
        )
    if not isinstance(segmentation, list):
        message = "expected polygons or run lengths {'size': ..., 'counts': ...}"
        raise ValueError(f"'segmentation': {message}, got {short(segmentation)}")
    for points in segmentation:
        _check_polygon(points, size)


def cut_outline(segmentation: Any, size: tuple[int, int]) -> Any:
    """The polygons of an object whose box is cut, cut to the image of ``(height, width)`` too.

    Run lengths are of the image already, and stay; so does what is no polygon, and `check_segmentation` refuses it.
    Where nothing is left inside of the image, the outline is that of no pixel.
    """
    if not isinstance(segmentation, list) or not all(map(_can_be_cut, segmentation)):
        return segmentation
    height, width = size
    polygons = [points for polygon in segmentation if (points := _cut_polygon(polygon, size))]
    return polygons or {"size": [height, width], "counts": [height * width]}


def rectangle(box: Sequence[float]) -> list[float]:
    """The corners of a box ``[x1, y1, x2, y2]`` as a polygon ``[x1, y1, x2, y1, ...]``."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def extent(polygon: Sequence[float]) -> list[float]:
    """The box ``[x1, y1, x2, y2]`` of a polygon, which YOLO takes for that of the object."""
    xs, ys = polygon[::2], polygon[1::2]
    return [min(xs), min(ys), max(xs), max(ys)]


def decode_mask(segmentation: object, size: tuple[int, int]) -> Tensor:
    """One COCO segmentation as ``[H, W]`` bool; arguments and errors as in `check_segmentation`."""
    check_segmentation(segmentation, size)
    return torch.from_numpy(np.ascontiguousarray(_hotcoco().decode(_runs(segmentation, size)))).bool()


def decode_masks(segmentations: Sequence[object], size: tuple[int, int]) -> Tensor:
    """Several as ``[N, H, W]`` bool.

    Raises:
        ValueError: as `check_segmentation`, and for masks that take more than 4 GB.
    """
    size_in_bytes = len(segmentations) * size[0] * size[1]
    if size_in_bytes > MAX_MASK_BYTES:
        raise ValueError(
            f"expected masks of at most {MAX_MASK_BYTES // 2**30} GB, got {len(segmentations)} of {size[1]}x{size[0]} "
            f"pixels, {size_in_bytes / 2**30:.0f} GB; load boxes alone with masks=False"
        )
    masks = torch.zeros(len(segmentations), *size, dtype=torch.bool)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        mask.copy_(decode_mask(segmentation, size))
    return masks


def run_lengths(segmentation: object, size: tuple[int, int]) -> dict[str, Any]:
    """A checked segmentation as the compressed run lengths that `hotcoco` takes.

    Raises:
        ValueError: as `check_segmentation`.
    """
    check_segmentation(segmentation, size)
    runs: dict[str, Any] = _runs(segmentation, size)
    return runs


def mask_box(runs: dict[str, Any]) -> list[float]:
    """``[x, y, width, height]`` of the pixels of compressed run lengths."""
    box: list[float] = _hotcoco().to_bbox(runs).tolist()
    return box


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """``[H, W]`` bool as compressed run lengths that JSON can hold."""
    runs = _hotcoco().encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
    counts = runs["counts"]
    return {"size": list(mask.shape), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def mask_runs(mask: Tensor) -> dict[str, Any]:
    """``[H, W]`` bool as plain run lengths, column by column from a run of zeros on; without hotcoco."""
    values = np.concatenate([[False], mask.cpu().numpy().ravel(order="F")])
    starts = np.flatnonzero(values[1:] != values[:-1])
    counts = np.diff(starts, prepend=0, append=values.size - 1)
    return {"size": list(mask.shape), "counts": counts.tolist()}


def _runs(segmentation: Any, size: tuple[int, int]) -> Any:
    height, width = size
    if isinstance(segmentation, dict):
        runs = {"size": [height, width], "counts": segmentation["counts"]}
        return _hotcoco().frPyObjects(runs, height, width)
    polygons = [[float(v) for v in points] for points in segmentation if points]
    return _hotcoco().merge(_hotcoco().frPyObjects(polygons, height, width))


def _hotcoco() -> Any:
    require("hotcoco")
    import hotcoco.mask

    return hotcoco.mask


def _can_be_cut(points: object) -> bool:
    if points == []:
        return True  # an empty part beside others
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2 or not set(map(type, points)) <= _NUMBERS:
        return False
    return all(abs(v) < LARGEST for v in points)


def _cut_polygon(points: list[float], size: tuple[int, int]) -> list[float]:
    """The part of a polygon inside of the image, edge of the image by edge (Sutherland and Hodgman 1974)."""
    corners = [[float(x), float(y)] for x, y in zip(points[::2], points[1::2], strict=True)]
    height, width = map(float, size)
    for axis, border, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        kept: list[list[float]] = []
        for start, end in zip([*corners[-1:], *corners[:-1]], corners, strict=True):
            begins, ends = (sign * (corner[axis] - border) >= 0 for corner in (start, end))
            if begins != ends:
                share = (border - start[axis]) / (end[axis] - start[axis])
                crossing = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
                crossing[axis] = border
                kept.append(crossing)
            if ends:
                kept.append(end)
        corners = kept
    return [v for corner in corners for v in corner] if len(corners) >= 3 else []


def _check_polygon(points: object, size: tuple[int, int]) -> None:
    if points == []:
        return  # an empty part beside others
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        raise ValueError(
            "'segmentation': expected polygons of three or more points [x1, y1, x2, y2, x3, y3, ...], "
            f"got {short(points)}"
        )
    # A rasteriser walks along every edge: a far point would cost its distance in time and memory.
    limit = 2 * max(size)
    kinds = set(map(type, points))
    if not kinds <= _NUMBERS or not (-limit <= min(points) and max(points) <= limit and math.isfinite(sum(points))):
        raise ValueError(
            f"'segmentation': expected finite coordinates no further than {limit} pixels from the origin, "
            f"got {short(points)}"
        )


def _check_runs(runs: dict[str, Any], size: tuple[int, int]) -> None:
    said = runs.get("size")
    if not isinstance(said, (list, tuple)) or list(said) != list(size):
        swapped = " (height and width are exchanged)" if said == [size[1], size[0]] else ""
        raise ValueError(
            f"'segmentation': expected run lengths of the image's size [height, width] = {list(size)}, got "
            f"{short(said)}{swapped}"
        )
    counts = runs.get("counts")
    if isinstance(counts, str):
        counts = _unpack(counts)
    elif not isinstance(counts, list):
        raise ValueError(f"'segmentation': 'counts' must be a text or a list of integers, got {type(counts).__name__}")
    if not set(map(type, counts)) <= {int} or (counts and min(counts) < 0):
        raise ValueError(f"'segmentation': 'counts' must be integers >= 0, got {short(counts)}")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"'segmentation': expected run lengths that add up to {size[0] * size[1]}, got {sum(counts)}")


def _unpack(text: str) -> list[int]:
    """The numbers behind COCO's compressed text: groups of 5 bits and a flag, from "0"; from the fourth on differences.

    Raises:
        ValueError: a character outside of the code, a number without end or beyond 64 bits.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(
                f"'segmentation': malformed run lengths: expected characters from '0' to 'o', got {character!r}"
            )
        value |= (bits & 0x1F) << shift
        shift += 5
        if shift > 60:
            raise ValueError("'segmentation': malformed run lengths: expected numbers of at most 60 bits, got more")
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("'segmentation': malformed run lengths: the text breaks off")
    return counts
