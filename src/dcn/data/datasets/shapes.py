"""Filled shapes as objects: one colour inside, so that only the outline tells the class."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dcn.extras import require

_OVERSAMPLING = 4  # drawn that much larger and reduced, which smooths the edge
Points = list[tuple[float, float]]


def _polygon(radii: list[float], start: float = -math.pi / 2) -> Points:
    """Corners at equal angles about the centre, at these distances."""
    step = 2 * math.pi / len(radii)
    return [(r * math.cos(start + k * step), r * math.sin(start + k * step)) for k, r in enumerate(radii)]


def _cross() -> Points:
    arm = 0.34
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    return [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in quarter]


def _crescent() -> Points:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.3 * math.pi, 1.7 * math.pi, 60)]
    tip = outer[0]
    centre, radius = tip[0], tip[1]  # the inner edge is a half circle between the tips
    inner = [(centre + radius * math.cos(a), radius * math.sin(a)) for a in np.linspace(1.5, 0.5, 40) * math.pi]
    return outer + inner


_OUTLINES: dict[str, Callable[[], Points]] = {
    "disc": lambda: _polygon([1.0] * 90),
    "square": lambda: _polygon([1.0] * 4, -math.pi / 4),
    "triangle": lambda: _polygon([1.0] * 3),
    "star": lambda: _polygon([1.0, 0.42] * 5),
    "cross": _cross,
    "crescent": _crescent,
}
SHAPES = tuple(_OUTLINES)
"""Names of the shapes, in the order of their labels."""


def outline(name: str, height: int) -> NDArray[np.float32]:
    """The filled shape, opacity 0..255, in a tight frame with one empty pixel around it.

    Args:
        name: one of `SHAPES`.
        height: of the shape in pixels, at least 8.
    """
    require("PIL")
    from PIL import Image, ImageDraw

    points = np.array(_OUTLINES[name]())
    low, high = points.min(0), points.max(0)
    scale = (height * _OVERSAMPLING - 1) / (high[1] - low[1])
    points = (points - low) * scale
    width = max(1, round(float(points[:, 0].max() + 1) / _OVERSAMPLING))
    canvas = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in points], fill=255)
    return np.pad(np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.float32), 1)
