"""Backgrounds and clutter for the synthetic set: noise of several octaves, gradients, stripes, strokes and blobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

_OCTAVES = ((3, 40.0), (9, 28.0), (27, 20.0))  # bumps across the image, and grey levels of their height


def _noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Smooth noise of three octaves: all are added at the size of the finest, which is then enlarged once."""
    from PIL import Image

    finest = _OCTAVES[-1][0]
    total = np.zeros((finest, finest), dtype=np.float32)
    for cells, amplitude in _OCTAVES:
        octave = (rng.random((cells, cells), dtype=np.float32) * 2 - 1) * np.float32(amplitude * rng.uniform(0.3, 1))
        total += np.asarray(Image.fromarray(octave).resize((finest, finest), Image.Resampling.BICUBIC))
    return np.asarray(Image.fromarray(total).resize((width, height), Image.Resampling.BICUBIC))


def background(rng: np.random.Generator, height: int, width: int, strength: float) -> Image.Image:
    """A textured background, RGB.

    ``strength`` in 0..1 scales the contrast of gradients, stripes and noise. Shades of one hue: a field of 256 levels
    looks its colours up in a table, which costs a quarter of computing three planes.
    """
    from PIL import Image

    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    field = _noise(rng, height, width) + (np.float32(rng.uniform(-25, 25)) * x + np.float32(rng.uniform(-25, 25)) * y)
    if rng.random() < 0.5:
        angle, cycles = rng.uniform(0, np.pi), rng.uniform(3, 14)
        phase = np.float32(np.pi * cycles * np.cos(angle)) * x + np.float32(np.pi * cycles * np.sin(angle)) * y
        field += np.float32(rng.uniform(8, 24)) * np.sin(phase)
    levels = np.clip(field + 128, 0, 255).astype(np.uint8)
    base, tint = rng.uniform(50, 205, 3), rng.uniform(0.6, 1.4, 3) * strength
    table = np.clip(base + (np.arange(256)[:, None] - 128) * tint, 0, 255).astype(np.uint8)
    picture = Image.fromarray(levels)
    picture.putpalette(table.tobytes())
    return picture.convert("RGB")


def colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour."""
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def add_clutter(rng: np.random.Generator, canvas: Image.Image, count: int) -> None:
    """Draw ``count`` strokes, blobs and boxes of any colour onto an RGB image."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(canvas)
    width, height = canvas.size
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        reach = rng.uniform(6, 40)
        dx, dy, ex, ey = (rng.uniform(-1, 1, 4) * reach).tolist()
        kind = rng.integers(3)
        if kind == 0:
            points = [(x, y), (x + dx, y + dy), (x + dx + ex, y + dy + ey)]
            draw.line(points, fill=colour(rng), width=int(rng.integers(1, 6)), joint="curve")
        elif kind == 1:
            draw.ellipse((x, y, x + abs(dx) * 0.6 + 2, y + abs(dy) * 0.6 + 2), fill=colour(rng))
        else:
            draw.polygon([(x, y), (x + dx, y + dy), (x + ex, y + ey)], fill=colour(rng))


def occluder(rng: np.random.Generator, height: int, width: int, share: float) -> NDArray[np.bool_]:
    """``[H, W]`` bool: a bar across an object's frame, or a piece at its edge, that covers about ``share`` of it."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)
    low, high = float(along.min()), float(along.max())
    span = (high - low) * share
    start = low if rng.random() < 0.5 else rng.uniform(low, high - span)
    bend = 0.06 * np.sin(6 * (y / height) + rng.uniform(0, 6))
    return (along + bend >= start) & (along + bend < start + span)
