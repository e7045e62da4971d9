from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcn.vis import (
    bar_panels,
    calibration_curve,
    confusion_matrix,
    field_maps,
    histogram,
    intervals,
    loss_curves,
    metric_curves,
    precision_recall,
    spread_bars,
)
from dcn.vis.plots import Interval, _points, _smoothed, interval_panels

ROWS: list[dict[str, object]] = [
    {"step": i, "loss": 2.0 / (i + 1), "loss_box": 0.5, "lr": 0.01, "note": "x"} for i in range(40)
]
ROWS += [{"step": 20, "AP50": 0.3}, {"step": 40, "AP50": 0.6}, {"step": 41, "AP50": math.nan}]


def _pixels(png: bytes) -> Any:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.array(picture.convert("RGB"))


def _shows(png: bytes, color: tuple[int, int, int]) -> bool:
    return bool((_pixels(png) == np.array(color)).all(2).any())


def test_losses_are_drawn_each_in_its_colour(tmp_path: Path) -> None:
    png = loss_curves(ROWS, path=tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes() == png
    assert [_shows(png, c) for c in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73))] == [True, True, False]


def test_runs_are_drawn_each_in_its_colour() -> None:
    png = metric_curves({"a": ROWS, "b": ROWS[-3:], "c": []}, "AP50")
    assert _shows(png, (0xD5, 0x5E, 0))


def test_rows_without_a_finite_value_are_passed_over() -> None:
    assert _points(ROWS, "step", "AP50") == ([20.0, 40.0], [0.3, 0.6])
    assert _points(ROWS, "step", "note") == ([], [])


def test_running_mean_starts_at_the_first_value() -> None:
    assert _smoothed([2.0, 2.0, 2.0], 0.9) == pytest.approx([2.0, 2.0, 2.0])
    assert _smoothed([1.0, 0.0], 0.5) == pytest.approx([1.0, 1 / 3])


def test_precision_recall_and_histogram_draw_something() -> None:
    curves = {f"class {i}": (np.linspace(0, 1, 5), np.linspace(1, 0.1 * i, 5)) for i in range(10)}
    assert _shows(precision_recall(curves), (0, 0x72, 0xB2))
    assert _shows(histogram([3, 1], [0.0, 0.5, 1.0], xlabel="length"), (0, 0x72, 0xB2))


def _height(png: bytes, color: tuple[int, int, int]) -> int:
    """Pixels of the tallest column of a colour; the legend's patches are low."""
    return int((_pixels(png) == np.array(color)).all(2).sum(0).max())


def test_bars_are_as_high_as_their_means(tmp_path: Path) -> None:
    """Without spread, whose lines would cover them; the second kind has no value in the first group."""
    none = (math.nan, math.nan)
    rows = {"a": {"x": (2.0, 0.0), "y": none, "z": none}, "b": {"x": (1.0, 0.0), "y": (4.0, 0.0), "z": none}}
    png = spread_bars(rows, ylabel="cells", path=tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes() == png
    assert _height(png, (0, 0x72, 0xB2)) / _height(png, (0xD5, 0x5E, 0)) == pytest.approx(0.5, abs=0.03)
    assert not _shows(png, (0, 0x9E, 0x73)), "a kind without any value is not in the legend"


def test_marks_lie_across_the_bars_of_their_group() -> None:
    rows = {"a": {"x": (2.0, 0.0)}, "b": {"x": (2.0, 0.0)}}
    bare, marked = (_pixels(spread_bars(rows, ylabel="y", marks=m, mark_label="z")) for m in (None, {"b": 1.0}))
    bar = np.array((0, 0x72, 0xB2))
    tall = [(picture == bar).all(2).sum(0) for picture in (bare, marked)]
    left, right = np.split(np.flatnonzero(tall[1] > tall[1].max() / 2), 2)
    assert tall[1][left].min() > tall[1][right].min() > 0


@pytest.mark.parametrize("normalize", [True, False], ids=["shares", "counts"])
def test_confusion_matrix_is_darkest_on_the_diagonal(normalize: bool) -> None:
    pixels = _pixels(confusion_matrix(np.eye(3) * 7, ["a", "b", "c"], normalize=normalize)).astype(int)
    dark = (pixels.sum(2) < 250) & (pixels[..., 2] > pixels[..., 0] + 60)
    rows, columns = np.nonzero(dark)
    assert np.corrcoef(rows, columns)[0, 1] > 0.8


@pytest.mark.parametrize("count", [12, 80])
def test_many_classes_are_drawn_below_their_mean(count: int, recwarn: pytest.WarningsRecorder) -> None:
    curves = {f"a class with a long name {i}": ([0.0, 0.5, 1.0], [1.0, 0.5, 0.1]) for i in range(count)}
    assert _shows(precision_recall(curves), (0, 0x72, 0xB2))
    assert not [warning for warning in recwarn if "layout" in str(warning.message)]


def test_an_interval_without_zero_has_a_colour() -> None:
    """The other one is grey."""
    assert not _shows(intervals({"AP": (0.1, -0.1, 0.3)}), (0, 0x72, 0xB2))
    assert _shows(intervals({"AP": (0.1, -0.1, 0.3), "AP50": (-0.2, -0.3, -0.1)}), (0, 0x72, 0xB2))


@pytest.mark.parametrize(
    ("one", "blue"),
    [
        pytest.param(Interval(1.0, 0.5, 1.5, shown=True), True, id="shown"),
        pytest.param(Interval(1.0, -0.5, 2.5, shown=False), False, id="not-shown"),
        pytest.param(Interval(1.0, math.nan, math.nan, shown=False), False, id="without-interval"),
        pytest.param(None, False, id="nothing"),
    ],
)
def test_panels_show_intervals_in_colour_where_they_are_shown(one: Interval | None, blue: bool, tmp_path: Path) -> None:
    groups = {"cards": {"R-FCN": (one, None), "RPN": (None, None)}}
    png = interval_panels(groups, ["first", "second"], path=tmp_path / "panels.png")
    assert (tmp_path / "panels.png").read_bytes() == png
    left, right = np.split(_pixels(png), [_pixels(png).shape[1] * 5 // 8], axis=1)
    assert bool((left == (0, 0x72, 0xB2)).all(2).any()) is blue
    assert not (right == (0, 0x72, 0xB2)).all(2).any()


def test_fields_are_cut_to_what_they_show() -> None:
    """A spot of 3 x 3 in 101 x 101 fills its panel: its bright part is as large as that of the same in 21 x 21."""
    bright = []
    for side in (21, 101):
        field = np.zeros((side, side))
        field[side // 2 - 1 : side // 2 + 2, side // 2 - 1 : side // 2 + 2] = 1
        bright.append(int((_pixels(field_maps({"a": field}))[..., 0] > 240).sum()))
    assert bright[0] == pytest.approx(bright[1], rel=0.02)


def test_panels_and_calibration_are_drawn() -> None:
    assert _shows(bar_panels({"time": {"a": 1.0, "b": 2.0}, "size": {"a": 3.0, "b": 0.0}}), (0, 0x72, 0xB2))
    assert _pixels(calibration_curve([(0.2, 0.1, 5), (0.8, 0.9, 50)])).shape[2] == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: loss_curves(ROWS, prefix="error"), r"rows: .*'AP50', 'loss'", id="prefix"),
        pytest.param(lambda: metric_curves({"a": ROWS}, "AP75"), r"key: .*'AP50'", id="key"),
        pytest.param(lambda: loss_curves(ROWS, smooth=1.0), "smooth", id="smooth"),
        pytest.param(lambda: spread_bars({}, ylabel="cells"), "rows: expected at least one", id="bars"),
        pytest.param(lambda: confusion_matrix(np.eye(2), ["a"]), "counts", id="classes"),
        pytest.param(lambda: field_maps({}), "fields: expected at least one", id="fields"),
        pytest.param(lambda: bar_panels({}), "panels: expected at least one", id="panels"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
