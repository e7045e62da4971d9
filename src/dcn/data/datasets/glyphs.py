"""Letters and shapes as deformable objects: a glyph of Pillow's own font, or a filled shape, under rotation, scale,
perspective and smooth warps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcn.data.datasets.shapes import SHAPES, outline
from dcn.extras import require

# Chosen so that no rotation or warp turns one into another (no 6/9, M/W/E, N/Z, S/5, 8/B/&).
CLASSES = ("A", "X", "S", "E", "4", "R", "T", "G", "?", "8", "Y", "2")
DISTRACTORS = "BCDHJKLNPQUVZ3567#@$+="
_SIZES = (24, 34, 48, 68, 96, 136)  # font sizes of the templates: one within a factor 1.4 of every size, no aliasing
_GRID = 24  # points along each side at which a warp is computed
STROKE = 0.035  # of the font size: the font is a light one, and glyphs of 24 pixels must still show
TILT = 80.0  # degrees either way at full strength


Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Warp:
    """A random geometric variation.

    Attributes:
        angle: rotation in radians.
        aspect: width is multiplied and height divided by this.
        perspective: ``(px, py)``, relative change of size across the glyph.
        waves: ``[K, 5]``: amplitude (in glyph sizes), wave vector x and y (cycles per glyph), phase and direction
            (radians).
    """

    angle: float
    aspect: float
    perspective: tuple[float, float]
    waves: NDArray[np.float64]


def draw_warp(rng: np.random.Generator, strength: float, rotation: float | None = None) -> Warp:
    """A random warp.

    Args:
        rng: gives the same number of values for every strength.
        strength: 0 is a plain upright glyph, 1 the strongest.
        rotation: largest tilt in degrees, either way; ``None``: 80 times the strength.
    """
    angle = rng.uniform(-1, 1) * np.deg2rad(TILT * strength if rotation is None else rotation)
    aspect = float(np.exp(rng.uniform(-0.35, 0.35) * strength))
    px, py = rng.uniform(-0.45, 0.45, 2) * strength
    waves = np.empty((3, 5))
    waves[:, 0] = rng.uniform(0.3, 1.0, 3) * (0.11, 0.06, 0.03) * strength
    direction = rng.uniform(0, 2 * np.pi, 3)
    cycles = np.array((0.7, 1.2, 1.8)) * rng.uniform(0.8, 1.2, 3)
    waves[:, 1], waves[:, 2] = cycles * np.cos(direction), cycles * np.sin(direction)
    waves[:, 3], waves[:, 4] = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0, 2 * np.pi, 3)
    return Warp(float(angle), aspect, (float(px), float(py)), waves)


@lru_cache(maxsize=512)
def template(character: str, font_size: int, stroke: float = STROKE) -> Floats:
    """The bold glyph, opacity 0..255, in a tight frame with one empty pixel around it.

    A name of `SHAPES` gives that shape, as high as a capital letter of the font; it has no stroke.

    Args:
        character: one character, or a name of `SHAPES`.
        font_size: of the font.
        stroke: by how much its lines are thicker than the font's on either side, as a share of the font size.

    Raises:
        ValueError: this Pillow was built without FreeType.
    """
    if character in SHAPES:
        return outline(character, round(0.75 * font_size))
    require("PIL")
    from PIL import Image, ImageDraw, ImageFont, features

    if not features.check("freetype2"):
        raise ValueError(
            "format: the synthetic dataset expects a Pillow with FreeType, got one without; install Pillow from PyPI"
        )
    font = ImageFont.load_default(font_size)
    canvas = Image.new("L", (3 * font_size, 3 * font_size))
    width = max(1, round(stroke * font_size))
    ImageDraw.Draw(canvas).text((font_size, font_size), character, fill=255, font=font, stroke_width=width)
    return np.pad(np.asarray(canvas.crop(canvas.getbbox()), dtype=np.float32), 1)


def _source(side: int, size: float, warp: Warp) -> tuple[Floats, Floats]:
    """Where each pixel of a square result comes from: x and y in glyph sizes about the glyph's centre.

    Computed on a coarse grid and enlarged: its 12 points per glyph size are 5 per wave of the shortest kind.
    """
    steps = ((np.arange(_GRID) + 0.5) / _GRID - 0.5) * (side / size)
    moved_x, moved_y = np.tile(steps, (_GRID, 1)), np.tile(steps[:, None], (1, _GRID))
    for amplitude, kx, ky, phase, direction in warp.waves:
        wave = amplitude * np.sin(2 * np.pi * (steps * kx + (steps * ky)[:, None]) + phase)
        moved_x += wave * np.cos(direction)
        moved_y += wave * np.sin(direction)
    cos, sin = np.cos(warp.angle), np.sin(warp.angle)
    x, y = cos * moved_x + sin * moved_y, cos * moved_y - sin * moved_x
    depth = np.maximum(1 + warp.perspective[0] * x + warp.perspective[1] * y, 0.4)
    return _enlarged(x / (depth * warp.aspect), side), _enlarged(y * warp.aspect / depth, side)


def _enlarged(grid: Floats, side: int) -> Floats:
    from PIL import Image

    image = Image.fromarray(grid.astype(np.float32))
    return np.array(image.resize((side, side), Image.Resampling.BICUBIC))


def _sample(image: Floats, x: Floats, y: Floats) -> Floats:
    """Bilinear values at continuous pixel positions; the empty rim of a template makes the outside 0."""
    height, width = image.shape
    x, y = np.clip(x - np.float32(0.5), 0, width - 1.001), np.clip(y - np.float32(0.5), 0, height - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    x -= column
    y -= row
    flat, first = image.ravel(), row * width + column
    upper = flat.take(first) * (1 - x) + flat.take(first + 1) * x
    lower = flat.take(first + width) * (1 - x) + flat.take(first + width + 1) * x
    return upper * (1 - y) + lower * y


def render(character: str, size: float, warp: Warp, stroke: float = STROKE) -> NDArray[np.uint8]:
    """The warped glyph, opacity 0..255, cut to its visible extent.

    Args:
        character: one character, or a name of `SHAPES`.
        size: height of the unwarped glyph in pixels.
        warp: how it is deformed.
        stroke: see :func:`template`.
    """
    # A capital letter is about 0.75 of the font size high.
    glyph = template(character, min(_SIZES, key=lambda font: abs(math.log(font * 0.75 / size))), stroke)
    height, width = glyph.shape
    side = math.ceil(size * 1.9)  # a square glyph on its corner, stretched, plus the waves
    x, y = _source(side, size, warp)
    opacity = _sample(glyph, x * (height - 2) + width / 2, y * (height - 2) + height / 2).astype(np.uint8)
    rows, columns = np.flatnonzero(opacity.max(1) > 8), np.flatnonzero(opacity.max(0) > 8)
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
