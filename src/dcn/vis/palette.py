"""Colours: one that tells classes apart for everybody, and the two that segmentation result files must use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dcn.class_names import CITYSCAPES_CLASSES, VOC_CLASSES
from dcn.colors import BLACK, Color, class_color, mix, text_color

__all__ = [
    "Color",
    "cityscapes_palette",
    "class_color",
    "class_palette",
    "drawing_palette",
    "mix",
    "shades",
    "text_color",
    "voc_palette",
]

# Order of the training ids 0..18 (road, sidewalk, building, wall, fence, pole, traffic light, traffic sign,
# vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle).
CITYSCAPES_COLORS: tuple[Color, ...] = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)


def voc_palette() -> list[Color]:
    """The 256 colours of Pascal VOC's index PNGs.

    Bits 0, 3, 6 of the index fill red from the highest bit down, bits 1, 4, 7 green and bits 2, 5 blue.
    """

    def channel(index: int, first: int) -> int:
        return sum(((index >> (first + 3 * step)) & 1) << (7 - step) for step in range(8))

    return [(channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(256)]


def cityscapes_palette() -> list[Color]:
    """256 colours by training id: the 19 classes of Cityscapes, the rest black."""
    return [*CITYSCAPES_COLORS, *[BLACK] * (256 - len(CITYSCAPES_COLORS))]


def class_palette(classes: Sequence[str], colors: Sequence[Color] | None = None) -> list[Color]:
    """256 colours by label: ``colors`` and then black; without them those of Cityscapes or of Pascal VOC."""
    if colors is not None:
        return [*colors, *[BLACK] * (256 - len(colors))]
    return cityscapes_palette() if tuple(classes) == CITYSCAPES_CLASSES else voc_palette()


def drawing_palette(classes: Sequence[str], colors: Sequence[Color] | None = None) -> list[Color]:
    """256 colours by label for pictures: ``colors``, or those of Cityscapes and of Pascal VOC for their classes.

    For all others :func:`class_color`, told apart under the common colour-vision deficiencies; a first class called
    background is black, and 255, which is no class, is too.
    """
    if colors is not None or tuple(classes) in (CITYSCAPES_CLASSES, ("background", *VOC_CLASSES)):
        return class_palette(classes, colors)
    first = [BLACK] if classes and classes[0].lower() == "background" else []
    return [*first, *(class_color(index) for index in range(255 - len(first))), BLACK]


def shades(name: str, values: Tensor) -> npt.NDArray[np.uint8]:
    """RGB ``[..., 3]`` of values 0..1 in one of matplotlib's scales."""
    import matplotlib as mpl

    return (mpl.colormaps[name](values.numpy())[..., :3] * 255).round().astype(np.uint8)
