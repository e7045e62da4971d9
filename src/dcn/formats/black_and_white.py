"""Masks of two classes as painting programs write them: black and white, 0 and 255."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from dcn.class_names import IGNORE
from dcn.formats.color_masks import LOSSY, ColorReader
from dcn.formats.color_tables import ColorTable
from dcn.formats.file_names import Stamps, stamps
from dcn.formats.images import read_index_image

NAMES = ("background", "foreground")
_COLORS = ((0, 0, 0), (255, 255, 255))
_SEEN = 100  # masks that are looked at


def black_and_white(names: tuple[str, ...] | None = None, unknown_colors: str = "refuse") -> ColorReader:
    """The reader of such masks; 255 is the second class, not an ignored pixel.

    Args:
        names: of the two classes, or of that of 255 alone; ``None``: `NAMES`.
        unknown_colors: what becomes of other values, see `ColorReader`.
    """
    pair = NAMES if names is None else (NAMES[0], *names)[-2:]
    return ColorReader(ColorTable(pair, _COLORS, (0, 1)), unknown_colors)


def are_black_and_white(masks: Sequence[Path], names: Sequence[str] | None) -> bool:
    """Whether masks hold 0 and 255 alone, or values near to them where they are JPEGs; and 255 at least once.

    More than two class names tell that 255 is ignored. A hundred of the masks are looked at.
    """
    if names is not None and len(names) > 2:
        return False
    chosen = masks[:: max(1, len(masks) // _SEEN)]
    return _are_black_and_white(stamps(chosen))


@lru_cache(maxsize=8)
def _are_black_and_white(stamped: Stamps) -> bool:
    white = False
    for mask, _ in stamped:
        stored = read_index_image(mask)
        if mask.suffix.lower() in LOSSY:
            bright = stored > 207
            if float(((stored < 48) | bright).float().mean()) < 0.95:
                return False
        else:
            bright = stored == IGNORE
            if not bool(((stored == 0) | bright).all()):
                return False
        white = white or bool(bright.any())
    return white
