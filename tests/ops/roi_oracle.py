"""The RoI poolings as loops over single samples in NumPy, written from their published rules."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def round_away(value: float) -> float:
    return math.copysign(math.floor(abs(value) + 0.5), value)


def bilinear(plane: Array, y: float, x: float) -> float:
    """RoIAlign's sample: 0 over a pixel outside, else held on the map."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    b, r = y - top, x - left
    upper = plane[top, left] * (1 - r) + plane[top, right] * r
    return float(upper * (1 - b) + (plane[bottom, left] * (1 - r) + plane[bottom, right] * r) * b)


def indices(*sizes: int) -> Iterator[tuple[int, ...]]:
    return iter(np.ndindex(*sizes))


def align(
    x: Array,
    rois: Array,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    half_pixel: bool,
    *,
    offset: Array | None = None,
    gamma: float = 0.0,
    group: tuple[int, int] = (1, 1),
) -> Array:
    """RoIAlign, position-sensitive RoIAlign (group = size) and mmcv's deformable RoI pooling (offset)."""
    channels = x.shape[1] // (group[0] * group[1])
    out = np.zeros((len(rois), channels, *size))
    for r, d, p, q in indices(*out.shape):
        image, *corners = rois[r]
        x1, y1, x2, y2 = (c * scale - (0.5 if half_pixel else 0.0) for c in corners)
        width, height = x2 - x1, y2 - y1
        if not half_pixel:
            width, height = max(width, 1.0), max(height, 1.0)
        move_x, move_y = (0.0, 0.0) if offset is None else offset[r, :, p, q] * gamma * np.array((width, height))
        bin_h, bin_w = height / size[0], width / size[1]
        rows, columns = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
        cell = (p * group[0] // size[0]) * group[1] + q * group[1] // size[1]
        plane = x[int(image), d * group[0] * group[1] + cell]
        total = sum(
            bilinear(
                plane,
                y1 + move_y + p * bin_h + (i + 0.5) * bin_h / rows,
                x1 + move_x + q * bin_w + (j + 0.5) * bin_w / columns,
            )
            for i in range(rows)
            for j in range(columns)
        )
        out[r, d, p, q] = total / max(rows * columns, 1)
    return out


def parts(
    x: Array,
    rois: Array,
    size: tuple[int, int],
    scale: float,
    group: int,
    samples: int,
    std: float,
    offset: Array | None,
) -> Array:
    """Deformable position-sensitive RoI pooling of the original code."""
    channels, (height, width) = x.shape[1] // group**2, x.shape[2:]
    out = np.zeros((len(rois), channels, *size))
    classes = 1 if offset is None else offset.shape[1] // 2
    for r, d, p, q in indices(*out.shape):
        image, *corners = rois[r]
        x1, y1 = (round_away(c) * scale - 0.5 for c in corners[:2])
        x2, y2 = ((round_away(c) + 1) * scale - 0.5 for c in corners[2:])
        roi_w, roi_h = max(x2 - x1, 0.1), max(y2 - y1, 0.1)
        move_x = move_y = 0.0
        if offset is not None:
            k = d // (channels // classes)
            row, column = (p * offset.shape[2] // size[0]), (q * offset.shape[3] // size[1])
            move_x, move_y = (offset[r, 2 * k + axis, row, column] * std for axis in (0, 1))
        bin_h, bin_w = roi_h / size[0], roi_w / size[1]
        plane = x[int(image), (d * group + p * group // size[0]) * group + q * group // size[1]]
        values = []
        for i, j in indices(samples, samples):
            h = p * bin_h + y1 + move_y * roi_h + i * bin_h / samples
            w = q * bin_w + x1 + move_x * roi_w + j * bin_w / samples
            if -0.5 <= h <= height - 0.5 and -0.5 <= w <= width - 0.5:
                values.append(bilinear(plane, min(max(h, 0.0), height - 1.0), min(max(w, 0.0), width - 1.0)))
        out[r, d, p, q] = np.mean(values) if values else 0.0
    return out


def cells(x: Array, rois: Array, size: tuple[int, int], scale: float, group: int, rule: str) -> Array:
    """Pooling over whole cells: ``"before_scale"``, ``"after_scale"`` (means) or ``"max"``."""
    channels, (height, width) = x.shape[1] // group**2, x.shape[2:]
    out = np.zeros((len(rois), channels, *size))
    for r, d, p, q in indices(*out.shape):
        image, *corners = rois[r]
        if rule == "before_scale":
            x1, y1 = (round_away(c) * scale for c in corners[:2])
            x2, y2 = ((round_away(c) + 1) * scale for c in corners[2:])
            roi_w, roi_h = max(x2 - x1, 0.1), max(y2 - y1, 0.1)
        else:
            x1, y1, x2, y2 = (round_away(c * scale) for c in corners)
            extra = 1 if rule == "max" else 0
            roi_w, roi_h = max(x2 - x1 + extra, 1), max(y2 - y1 + extra, 1)
        last = (height - 1, width - 1) if rule == "after_scale" else (height, width)
        begin = (y1, x1)
        spans = []
        for axis, (step, length) in enumerate(((p, roi_h / size[0]), (q, roi_w / size[1]))):
            shift = begin[axis]
            low, high = math.floor(step * length + shift), math.ceil((step + 1) * length + shift)
            spans.append(slice(*(min(max(v, 0), last[axis]) for v in (low, high))))
        plane = x[int(image), (d * group + p * group // size[0]) * group + q * group // size[1]]
        values = plane[spans[0], spans[1]]
        if values.size:
            out[r, d, p, q] = values.max() if rule == "max" else values.mean()
    return out
