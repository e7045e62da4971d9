"""Writing YOLO text files: one line an object, a box or a polygon, in shares of the image.

Ultralytics takes every line of a file for a polygon as soon as one of them is, and drops the polygons of a data set
that has boxes too. So write a data set with boxes alone, or with polygons alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dcn.formats.masks import cut_outline, extent


def lines_of(labels: Sequence[int], shapes: Sequence[Sequence[float]], size: tuple[int, int]) -> str:
    """The text file of one image.

    Args:
        labels: the class of each object.
        shapes: a box ``[x1, y1, x2, y2]`` or a polygon ``[x1, y1, x2, y2, x3, y3, ...]`` for each, in pixels.
        size: ``(height, width)`` of the image.
    """
    height, width = size
    rows: list[str] = []
    for label, shape in zip(labels, shapes, strict=True):
        values = list(shape)
        if len(shape) == 4:
            x1, y1, x2, y2 = shape
            values = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        shares = (value / (height if index % 2 else width) for index, value in enumerate(values))
        rows.append(f"{label} " + " ".join(f"{share:.8f}" for share in shares) + "\n")
    return "".join(rows)


def inner_parts(parts: Sequence[list[float]], size: tuple[int, int]) -> list[list[float]]:
    """The polygons of an object, cut to the image of ``(height, width)``; those without an area in it are left out."""
    cut = cut_outline(list(parts), size)
    if not isinstance(cut, list):
        return []
    boxes = map(extent, cut)
    return [part for part, (x1, y1, x2, y2) in zip(cut, boxes, strict=True) if x2 > x1 and y2 > y1]


def joined(parts: Sequence[Sequence[float]]) -> list[float]:
    """Polygons as one: part after part is joined at the nearest corners, by a line that goes there and back.

    The line has no area: the polygon covers what the parts cover, where they do not overlap.
    """
    whole = _corners(parts[0])
    for part in map(_corners, parts[1:]):
        least, here, there = math.inf, 0, 0
        for number, corner in enumerate(part):  # a table of all distances would take the square of a large file
            squares = ((whole - corner) ** 2).sum(1)
            nearest = int(squares.argmin())
            if squares[nearest] < least:
                least, here, there = float(squares[nearest]), nearest, number
        whole = np.concatenate([whole[: here + 1], part[there:], part[: there + 1], whole[here:]])
    values: list[float] = whole.reshape(-1).tolist()
    return values


def _corners(points: Sequence[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(points, dtype=np.float64).reshape(-1, 2)
