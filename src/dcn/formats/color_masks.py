"""Segmentation masks in colours: images in which each colour stands for a class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dcn.class_names import IGNORE
from dcn.colors import Color
from dcn.formats.color_tables import UNKNOWN, ColorTable
from dcn.formats.images import read_image

LOSSY = (".jpg", ".jpeg", ".jfif")
"""Endings of files whose compression changes colours."""

_CHUNK = 65536  # colours whose distances to the table are computed at once
_Codes = npt.NDArray[np.int32]
_Lookup = npt.NDArray[np.int16]


@dataclass(frozen=True)
class ColorReader:
    """Reads masks whose colours stand for classes; palettes are looked up, transparency is dropped.

    Attributes:
        table: what the colours mean.
        unknown: what becomes of another colour: ``"refuse"``: an error; ``"ignore"``: 255; ``"nearest"``: the class of
            the nearest colour of the table (JPEGs, smoothed edges).
    """

    table: ColorTable
    unknown: str = "refuse"

    def __post_init__(self) -> None:
        if self.unknown not in UNKNOWN:
            raise ValueError(f"unknown_colors: expected one of {', '.join(UNKNOWN)}, got {self.unknown!r}")

    def __call__(self, path: Path) -> Tensor:
        """``[H, W]`` int64 of an image in colours.

        Raises:
            ValueError: the file cannot be read, or has a colour that the table does not have (``"refuse"``).
        """
        codes = _codes_of(read_image(path))
        lookup = _lookup(self.table, self.unknown)
        labels = lookup[codes]
        strange = labels == 0
        if strange.any():
            if self.unknown == "refuse":
                raise ValueError(f"{path}: {self._refusal(codes[strange], codes.size, path)}")
            labels[strange] = IGNORE + 1 if self.unknown == "ignore" else self._learned(lookup, codes[strange])
        return torch.from_numpy(labels).to(torch.int64) - 1

    def _learned(self, lookup: _Lookup, codes: _Codes) -> _Lookup:
        """The nearest labels + 1 of unknown colours; they are noted for the images that follow."""
        unique = np.unique(codes)
        parts = [unique[start : start + _CHUNK] for start in range(0, len(unique), _CHUNK)]
        lookup[unique] = np.concatenate([np.array(self.table.labels)[self._nearest(part)] for part in parts]) + 1
        return lookup[codes]

    def _nearest(self, codes: _Codes) -> npt.NDArray[np.int64]:
        """The index in the table of the colour with the least squared RGB distance; the first of equal ones."""
        colors = np.array(self.table.colors)
        distances = ((_colors_of(codes)[:, None] - colors) ** 2).sum(-1)
        nearest: npt.NDArray[np.int64] = distances.argmin(1)
        return nearest

    def _refusal(self, strange: _Codes, pixels: int, path: Path) -> str:
        (code, count), *others = _frequent(strange)
        near = int(self._nearest(np.array([code], np.int32))[0])
        several = f"; {len(strange) / pixels:.2%} with {len(others)} more unknown" if others else ""
        lossy = path.suffix.lower() in LOSSY
        first = "a JPEG changes colours: save the mask as PNG" if lossy else "add it to the table"
        return (
            f"expected the colours of {len(self.table.names)} classes, got {_rgb(code)} in "
            f"{count / pixels:.2%} of the pixels, nearest to {self.table.colors[near]} "
            f"({self.table.name_of(near)}){several}; {first}, or set the option unknown_colors=nearest, or "
            "unknown_colors=ignore (such pixels do not count)"
        )


@lru_cache(maxsize=4)
def _lookup(table: ColorTable, _unknown: str) -> _Lookup:
    """The label + 1 of every colour, 0 for unknown ones: 32 MB of zeros, of which only what is read becomes memory."""
    lookup = np.zeros(1 << 24, np.int16)
    lookup[[_code(color) for color in table.colors]] = np.array(table.labels) + 1
    return lookup


def colors_in(paths: Iterable[Path]) -> dict[Color, float]:
    """The colours of some masks with their share of the pixels, the most frequent first.

    Raises:
        BrokenImageError: a file cannot be read.
    """
    codes = np.concatenate([_codes_of(read_image(path)).reshape(-1) for path in paths])
    return {_rgb(code): count / codes.size for code, count in _frequent(codes)}


def _frequent(codes: _Codes) -> list[tuple[int, int]]:
    unique, counts = np.unique(codes, return_counts=True)
    return [(int(unique[i]), int(counts[i])) for i in np.argsort(-counts, kind="stable")]


def _codes_of(image: Tensor) -> _Codes:
    """``[H, W]``: each colour of ``[3, H, W]`` uint8 as one number."""
    red, green, blue = image.numpy().astype(np.int32)
    codes: _Codes = (red << 16) | (green << 8) | blue
    return codes


def _code(color: Color) -> int:
    return (color[0] << 16) | (color[1] << 8) | color[2]


def _rgb(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def _colors_of(codes: _Codes) -> npt.NDArray[np.int32]:
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)
