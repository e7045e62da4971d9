"""The generated dataset: deformed letters or shapes on textured backgrounds, a pure function of a seed.

It exists because geometric variation is what deformable operators are for: every glyph is rotated, scaled, seen in
perspective and bent by smooth waves, and may be partly hidden. Sample ``i`` of split ``s`` is a pure function of
``(seed, s, i)`` and of the options: the same on every run, in every worker, in any order.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dcn.data.datasets import glyphs, shapes, textures
from dcn.structures import Sample, SegmentationMap, Target
from dcn.suggest import suggest

SPLITS = ("train", "val", "test")
SYMBOLS = {"letters": (glyphs.CLASSES, 8), "shapes": (shapes.SHAPES, 6)}
"""What the objects can be: the names of the classes, and how many of them are used unless told."""
_MIN_VISIBLE = 0.5  # an object less visible than this share of its glyph is left out
_GEOMETRY = {"rotation": (0.0, 180.0), "bending": (0.0, 1.0), "stroke": (0.01, 0.2)}
"""What ``geometry`` may set, and from where to where."""


@dataclass
class _Glyph:
    """A glyph on the canvas: its class, the pixels it covers, and how many of them it started with."""

    label: int
    mask: NDArray[np.bool_]
    pixels: int


class Synthetic:
    """Letters or shapes as objects.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``: disjoint streams of one seed.
        seed: any integer >= 0.
        length: number of images.
        size: ``(height, width)`` in pixels, each at least 64.
        num_classes: how many of the symbols are used, in their order: 2 to 12 letters (8 unless given) or 2 to 6 shapes
            (6 unless given).
        symbols: ``"letters"`` (`glyphs.CLASSES`), or ``"shapes"`` (`shapes.SHAPES`): filled, in one colour, so that
            only the outline tells the class.
        objects: fewest and most objects in an image; there is always one at least.
        glyph_size: smallest and largest height of a glyph in pixels before it is deformed; small ones are as likely as
            large ones on a logarithmic scale.
        difficulty: 0 (upright letters on a calm background) to 1 (tilted up to 80 degrees, strongly bent, cluttered,
            hidden by up to 45 %).
        geometry: what the shapes have of their own, whatever the difficulty: ``rotation``, the largest tilt in degrees
            either way (0 to 180; else 80 times the difficulty); ``bending``, the strength of waves, perspective and
            stretching (0 to 1; else the difficulty); ``stroke``, by how much lines are thicker than the font's, as a
            share of the font size (0.01 to 0.2; else 0.035).
        masks: give the visible pixels of every object.
        semantic: give a `SegmentationMap` instead: 0 is the background, ``k + 1`` the symbol ``k``; ``classes`` then
            starts with ``"background"``.
        cache: keep every generated sample (3 bytes a pixel, in each worker process).

    Boxes are the extent of the visible mask, as in COCO: what hides an object also shortens its box.

    Raises:
        ValueError: an option out of its range, or a Pillow without FreeType.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        seed: int = 0,
        length: int = 1000,
        size: Sequence[int] = (192, 192),
        num_classes: int | None = None,
        symbols: str = "letters",
        objects: Sequence[int] = (1, 4),
        glyph_size: Sequence[float] = (28, 72),
        difficulty: float = 0.7,
        geometry: Mapping[str, float] | None = None,
        masks: bool = True,
        semantic: bool = False,
        cache: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        height, width = (int(side) for side in _pair("size", size, 64, 4096))
        fewest, most = _pair("objects", objects, 1, 100, ordered=True)
        self._objects = (int(fewest), int(most))
        self._glyph_size = _pair("glyph_size", glyph_size, 12, min(height, width) * 0.6, ordered=True)
        _within("seed", seed, 0, 2**63)
        _within("length", length, 1, 2**31)
        if symbols not in SYMBOLS:
            raise ValueError(f"symbols: expected one of {', '.join(SYMBOLS)}, got {symbols!r}")
        names, usual = SYMBOLS[symbols]
        num_classes = usual if num_classes is None else num_classes
        _within("num_classes", num_classes, 2, len(names))
        _within("difficulty", difficulty, 0, 1)
        glyphs.template(glyphs.CLASSES[0], 24)  # a Pillow without FreeType is told here, not in a worker
        self.name = f"synthetic:{split}"
        self._symbols = names[:num_classes]
        self.classes = ("background", *self._symbols) if semantic else self._symbols
        self.sizes = [(height, width)] * length
        self._stream = (seed, zlib.crc32(split.encode()))
        self._difficulty = float(difficulty)
        self._clutter = symbols != "shapes"  # its boxes, blobs and triangles would be shapes without a label
        own = _checked_geometry(geometry or {})
        self._bending, self._stroke = own.get("bending", self._difficulty), own.get("stroke", glyphs.STROKE)
        self._rotation = own.get("rotation", glyphs.TILT * self._difficulty)
        self._masks, self._semantic = masks, semantic
        self._cache: dict[int, Sample] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.sizes)

    def image_path(self, index: int) -> None:
        """``None``: no file stands behind an image (`dcn data write` writes some)."""

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        if self._cache is None:
            return self._draw(index)
        if index not in self._cache:
            self._cache[index] = self._draw(index)
        return self._cache[index]

    def _draw(self, index: int) -> Sample:
        rng = np.random.default_rng((*self._stream, index))
        height, width = self.sizes[index]
        level = self._difficulty
        picture = textures.background(rng, height, width, 0.4 + 0.6 * level)
        if self._clutter:
            textures.add_clutter(rng, picture, int(rng.integers(0, 1 + round(14 * level))))
        canvas = np.array(picture)
        for _ in range(int(rng.integers(0, 1 + round(4 * level)))):
            self._add_fragment(rng, canvas)
        objects: list[_Glyph] = []
        for _ in range(int(rng.integers(self._objects[0], self._objects[1] + 1))):
            self._add_object(rng, canvas, objects)
        return Sample(torch.from_numpy(_with_noise(rng, canvas)), self._target(objects, index))

    def _draw_warp(self, rng: np.random.Generator) -> glyphs.Warp:
        return glyphs.draw_warp(rng, self._bending, self._rotation)

    def _add_fragment(self, rng: np.random.Generator, canvas: NDArray[np.uint8]) -> None:
        """A piece (half at most) of a character that is no class, painted like an object."""
        character = glyphs.DISTRACTORS[rng.integers(len(glyphs.DISTRACTORS))]
        size, warp = rng.uniform(20, 50), self._draw_warp(rng)
        alpha = glyphs.render(character, size, warp, self._stroke)
        rows, columns = alpha.shape
        alpha = alpha[: max(rows // 2, 1)] if rng.random() < 0.5 else alpha[:, : max(columns // 2, 1)]
        _paint(rng, canvas, alpha, *_anywhere(rng, canvas, alpha))

    def _add_object(self, rng: np.random.Generator, canvas: NDArray[np.uint8], objects: list[_Glyph]) -> None:
        """Try a few positions for one glyph; where others take all of them it is left out."""
        label = int(rng.integers(len(self._symbols)))
        low, high = np.log(self._glyph_size)
        warp = self._draw_warp(rng)
        alpha = glyphs.render(self._symbols[label], float(np.exp(rng.uniform(low, high))), warp, self._stroke)
        for _ in range(8):
            top, left = _anywhere(rng, canvas, alpha)
            mask = np.zeros(canvas.shape[:2], dtype=np.bool_)
            rows, columns = _window(mask, alpha, top, left)
            mask[top : top + rows, left : left + columns] = alpha[:rows, :columns] > 127
            if all((o.mask & ~mask).sum() >= (_MIN_VISIBLE + 0.25) * o.pixels for o in objects) and mask.any():
                break
        else:
            return
        _paint(rng, canvas, alpha, top, left)
        for other in objects:
            other.mask &= ~mask
        objects.append(_Glyph(label, mask, int(mask.sum())))
        if rng.random() < 0.6 * self._difficulty:
            self._occlude(rng, canvas, objects, top, left, rows, columns)

    def _occlude(
        self,
        rng: np.random.Generator,
        canvas: NDArray[np.uint8],
        objects: list[_Glyph],
        top: int,
        left: int,
        rows: int,
        columns: int,
    ) -> None:
        """Cover a part of the last object, unless too little of any object would be left."""
        cover = textures.occluder(rng, rows, columns, rng.uniform(0.1, 0.15 + 0.3 * self._difficulty))
        shape = np.zeros(canvas.shape[:2], dtype=np.bool_)
        shape[top : top + rows, left : left + columns] = cover
        if any((o.mask & ~shape).sum() < _MIN_VISIBLE * o.pixels for o in objects):
            return
        canvas[shape] = textures.colour(rng)
        for other in objects:
            other.mask &= ~shape

    def _target(self, objects: list[_Glyph], index: int) -> Target | SegmentationMap:
        if self._semantic:
            labels = np.zeros(self.sizes[index], dtype=np.int64)
            for item in objects:
                labels[item.mask] = item.label + 1
            return SegmentationMap(torch.from_numpy(labels), index)
        masks = torch.from_numpy(np.stack([item.mask for item in objects]))
        return Target(
            boxes=torch.tensor([_extent(item.mask) for item in objects], dtype=torch.float32),
            labels=torch.tensor([item.label for item in objects]),
            masks=masks if self._masks else None,
            area=masks.sum((1, 2)).float(),
            size=self.sizes[index],
            image_id=index,
        )


def _with_noise(rng: np.random.Generator, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``[H, W, 3]`` to ``[3, H, W]`` with a grain of up to 6 grey levels, in bytes all the way."""
    planes = np.clip(canvas.transpose(2, 0, 1), 6, 249, order="C")
    planes += rng.integers(0, 13, planes.shape[1:], dtype=np.uint8)
    planes -= np.uint8(6)
    return planes


def _checked_geometry(values: Mapping[str, float]) -> dict[str, float]:
    for name, value in values.items():
        if name not in _GEOMETRY:
            raise ValueError(f"geometry: expected {', '.join(_GEOMETRY)}, got {name!r}; {suggest(name, _GEOMETRY)}")
        _within(f"geometry.{name}", value, *_GEOMETRY[name])
    return {name: float(value) for name, value in values.items()}


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")


def _pair(name: str, values: Sequence[float], low: float, high: float, *, ordered: bool = False) -> tuple[float, float]:
    pair = tuple(values)
    if len(pair) != 2 or not all(low <= v <= high for v in pair) or (ordered and pair[0] > pair[1]):
        order = " in ascending order" if ordered else ""
        raise ValueError(f"{name}: expected two numbers from {low:g} to {high:g}{order}, got {list(pair)}")
    return pair


def _anywhere(rng: np.random.Generator, canvas: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> tuple[int, int]:
    """A top left corner that keeps the glyph inside where it fits."""
    room = np.maximum(np.array(canvas.shape[:2]) - alpha.shape, 0)
    top, left = rng.integers(0, room + 1).tolist()
    return top, left


def _window(mask: NDArray[np.bool_], alpha: NDArray[np.uint8], top: int, left: int) -> tuple[int, int]:
    """Height and width of the part of a glyph that lies on the canvas."""
    return min(alpha.shape[0], mask.shape[0] - top), min(alpha.shape[1], mask.shape[1] - left)


def _paint(rng: np.random.Generator, canvas: NDArray[np.uint8], alpha: NDArray[np.uint8], top: int, left: int) -> None:
    """Blend a glyph in a colour that stands out from the background beneath it, shaded from one side to the other."""
    patch = canvas[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    rows, columns = patch.shape[:2]
    background = float(patch.mean())
    ink = np.array(textures.colour(rng), dtype=np.float32)
    # 70 grey levels apart on average: legible, and still far from the black on white of print.
    apart = rng.uniform(70, 120)
    lighter = background + apart < 250 and (background - apart < 5 or rng.random() < 0.5)
    level = background + apart if lighter else background - apart
    ink = ink + (level - ink.mean())
    left_shade, right_shade = rng.uniform(-20, 20, 2).tolist()
    shade = np.linspace(left_shade, right_shade, columns, dtype=np.float32)[None, :, None]
    opacity = alpha[:rows, :columns, None] * np.float32(1 / 255)
    patch[:] = (patch + opacity * (np.clip(ink + shade, 0, 255) - patch)).astype(np.uint8)


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The tight box of a mask, continuous edges."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
