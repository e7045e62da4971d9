from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dcn.data.datasets.glyphs import CLASSES, DISTRACTORS, Warp, draw_warp, render, template
from dcn.data.datasets.shapes import SHAPES

NEUTRAL = Warp(0.0, 1.0, (0.0, 0.0), np.zeros((0, 5)))


def _turned(angle: float) -> Warp:
    return Warp(angle, 1.0, (0.0, 0.0), np.zeros((0, 5)))


def test_classes_differ_from_each_other_and_from_clutter() -> None:
    assert len(set(CLASSES)) == len(CLASSES) == 12
    assert not set(CLASSES) & set(DISTRACTORS)


@pytest.mark.parametrize("size", [24.0, 40.0, 72.0])
def test_neutral_glyph_has_the_asked_height_and_its_template_shape(size: float) -> None:
    opacity, shape = render("R", size, NEUTRAL), template("R", 96).shape
    assert opacity.shape[0] == pytest.approx(size, abs=2)
    assert opacity.shape[1] / opacity.shape[0] == pytest.approx((shape[1] - 2) / (shape[0] - 2), abs=0.08)
    assert opacity.max() > 250


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_the_asked_height_and_differ_under_every_rotation(name: str) -> None:
    shape = render(name, 60, NEUTRAL) > 127
    assert shape.shape[0] == pytest.approx(60, abs=2)
    others = [
        render(other, 60, _turned(angle)) > 127 for other in SHAPES if other != name for angle in np.arange(0, 6.3, 0.2)
    ]
    side = max(max(other.shape) for other in [shape, *others]) + 1

    def centred(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        rows, columns = (side - np.array(mask.shape)) // 2
        canvas = np.zeros((side, side), dtype=np.bool_)
        canvas[rows : rows + mask.shape[0], columns : columns + mask.shape[1]] = mask
        return canvas

    own = centred(shape)
    assert max((own & centred(o)).sum() / (own | centred(o)).sum() for o in others) < 0.9


def test_a_quarter_turn_is_clockwise_or_its_mirror_never() -> None:
    upright, turned = render("R", 60, NEUTRAL), render("R", 60, _turned(np.pi / 2))
    quarter = {k: np.rot90(upright, k) for k in (1, 3)}
    errors = {k: np.abs(turned.astype(int) - q).mean() for k, q in quarter.items() if q.shape == turned.shape}
    assert min(errors.values()) < 2
    assert max(errors.values()) > 40


def test_waves_move_by_their_amplitude() -> None:
    """A constant wave (no wave vector) shifts the whole glyph: its shape stays."""
    shift = Warp(0.0, 1.0, (0.0, 0.0), np.array([[0.1, 0.0, 0.0, np.pi / 2, 0.0]]))
    assert np.array_equal(render("A", 50, shift), render("A", 50, NEUTRAL))
    bent = Warp(0.0, 1.0, (0.0, 0.0), np.array([[0.1, 0.0, 1.0, 0.0, 0.0]]))
    assert render("T", 50, bent).shape[1] > render("T", 50, NEUTRAL).shape[1] + 2


@pytest.mark.parametrize("aspect", [0.7, 1.4])
def test_aspect_keeps_the_area(aspect: float) -> None:
    opacity, plain = render("X", 50, Warp(0.0, aspect, (0.0, 0.0), np.zeros((0, 5)))), render("X", 50, NEUTRAL)
    assert opacity.shape[1] / plain.shape[1] == pytest.approx(aspect, rel=0.07)
    assert opacity.sum() / plain.sum() == pytest.approx(1.0, rel=0.03)


def test_perspective_makes_one_side_larger() -> None:
    opacity = render("X", 60, Warp(0.0, 1.0, (0.5, 0.0), np.zeros((0, 5))))
    heights = [np.ptp(np.flatnonzero(half.max(1) > 127)) for half in np.array_split(opacity, 2, axis=1)]
    assert abs(int(heights[0]) - int(heights[1])) > 5


def test_strength_zero_is_neutral_and_one_is_not() -> None:
    rng = np.random.default_rng(0)
    assert np.array_equal(render("G", 40, draw_warp(rng, 0.0)), render("G", 40, NEUTRAL))
    strong = [draw_warp(rng, 1.0) for _ in range(200)]
    angles = np.rad2deg([warp.angle for warp in strong])
    assert 70 < np.abs(angles).max() <= 80
    assert max(warp.waves[:, 0].max() for warp in strong) <= 0.11
    assert all(render("G", 40, warp).max() > 200 for warp in strong)
