from __future__ import annotations

from collections.abc import Callable

import pytest

from dcn.class_names import CITYSCAPES_CLASSES, VOC_CLASSES
from dcn.vis.palette import (
    Color,
    cityscapes_palette,
    class_color,
    class_palette,
    drawing_palette,
    mix,
    text_color,
    voc_palette,
)


def _luminance(color: Color) -> float:
    linear = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_voc_palette_has_the_colours_of_the_kit() -> None:
    palette = voc_palette()
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {i: palette[i] for i in known} == known
    assert palette[255] == (224, 224, 192)
    assert len(set(palette)) == 256


def test_cityscapes_palette_is_in_training_order() -> None:
    palette = cityscapes_palette()
    assert (palette[0], palette[10], palette[18]) == ((128, 64, 128), (70, 130, 180), (119, 11, 32))
    assert palette[19:] == [(0, 0, 0)] * 237


def test_twenty_one_classes_have_different_colours_and_then_they_repeat() -> None:
    assert len({class_color(i) for i in range(21)}) == 21
    assert class_color(21) == class_color(0)


@pytest.mark.parametrize("index", range(21))
def test_letters_on_every_plate_have_contrast(index: int) -> None:
    """WCAG AA asks for 4.5:1."""
    plate, letters = class_color(index), text_color(class_color(index))
    light, dark = sorted((_luminance(plate), _luminance(letters)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_mix_goes_from_one_to_the_other() -> None:
    assert [mix((0, 10, 20), (100, 110, 220), share) for share in (0, 0.5, 1)] == [
        (0, 10, 20),
        (50, 60, 120),
        (100, 110, 220),
    ]


@pytest.mark.parametrize(
    ("classes", "first"),
    [
        (("background", "A", "X"), [(0, 0, 0), class_color(0), class_color(1)]),
        (("road", "tree"), [class_color(0), class_color(1)]),
        (("background", *VOC_CLASSES), voc_palette()[:3]),
        (CITYSCAPES_CLASSES, cityscapes_palette()[:3]),
    ],
    ids=["background", "own", "voc", "cityscapes"],
)
def test_maps_are_drawn_in_safe_or_known_colours(classes: tuple[str, ...], first: list[tuple[int, int, int]]) -> None:
    palette = drawing_palette(classes)
    assert palette[: len(first)] == first
    assert len(palette) == 256


@pytest.mark.parametrize("palette_of", [class_palette, drawing_palette])
def test_maps_have_the_colours_of_their_masks(palette_of: Callable[..., list[Color]]) -> None:
    colors = [(9, 80, 7), (1, 2, 3)]
    assert palette_of(("a", "b"), colors) == [*colors, *[(0, 0, 0)] * 254]
