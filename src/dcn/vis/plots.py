"""Diagrams: curves of a run, precision and recall, confusion matrices. Drawn without a display (matplotlib's Agg)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcn.vis.fonts import figure_png

Row = Mapping[str, object]
StrPath = str | PathLike[str]

# Okabe and Ito without the yellow, which is too light for lines on white; line styles follow where the colours end.
_LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
_MOST_NAMED = 12
_LINE_STYLES = ("-", "--", ":")


def loss_curves(
    rows: Sequence[Row], *, prefix: str = "loss", x: str = "step", smooth: float = 0.9, path: StrPath | None = None
) -> bytes:
    """All losses of one run over its steps.

    Args:
        rows: the lines of ``metrics.jsonl``; rows without a value are skipped.
        prefix: a key with a number counts if it starts with this.
        x: the key of the horizontal axis.
        smooth: 0..1, weight of the past in a running mean; the raw values stay visible behind it.
        path: also write the PNG there.

    Returns:
        The PNG.
    """
    keys = sorted({key for row in rows for key in row if key.startswith(prefix) and _is_number(row[key])})
    if not keys:
        raise ValueError(f"rows: expected at least one key starting with {prefix!r}, got {_keys(rows)}")
    return _curves({key: _points(rows, x, key) for key in keys}, x, "loss", smooth, path)


def metric_curves(
    runs: Mapping[str, Sequence[Row]], key: str, *, x: str = "step", smooth: float = 0.0, path: StrPath | None = None
) -> bytes:
    """One metric (an AP, a loss) of several runs in one diagram.

    Args:
        runs: the rows of each run by its name, see `loss_curves`.
        key: which metric; rows without it are skipped.
        x: the key of the horizontal axis.
        smooth: as in `loss_curves`.
        path: also write the PNG there.
    """
    lines = {name: _points(rows, x, key) for name, rows in runs.items()}
    if not any(len(line[0]) for line in lines.values()):
        raise ValueError(f"key: expected one of {_keys([row for rows in runs.values() for row in rows])}, got {key!r}")
    return _curves(lines, x, key, smooth, path)


def precision_recall(
    curves: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], *, path: StrPath | None = None
) -> bytes:
    """Precision over recall, one line for each class: from `dcn.metrics.VocAP.curves`. Returns the PNG.

    More than 12 classes are drawn pale and without names, below their mean.
    """
    figure, axes = _axes((5.0, 3.8))
    many = len(curves) > _MOST_NAMED
    for number, (name, (recall, precision)) in enumerate(curves.items()):
        style = {"color": "#888888", "linewidth": 0.6, "alpha": 0.5} if many else _style(number)
        axes.plot(np.r_[0.0, recall], np.r_[1.0, precision], label=None if many else name, **style)
    if many:
        grid = np.linspace(0, 1, 101)
        mean = np.mean([_precision_at(grid, *curve) for curve in curves.values()], axis=0)
        axes.plot(grid, mean, label=f"mean of {len(curves)} classes", **_style(0))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    if many:
        axes.legend(loc="best", fontsize=9, framealpha=0.85, edgecolor="none")
    else:
        _legend(axes, len(curves))
    return _png(figure, path)


def _precision_at(grid: Any, recall: npt.ArrayLike, precision: npt.ArrayLike) -> Any:
    """The precision of one class at given recalls; 0 beyond the last."""
    return np.interp(grid, np.asarray(recall), np.asarray(precision), right=0.0)


def confusion_matrix(
    counts: npt.ArrayLike, classes: Sequence[str], *, normalize: bool = True, path: StrPath | None = None
) -> bytes:
    """A confusion matrix as a table of shades, with the numbers in it if they can be read.

    Args:
        counts: ``[C, C]``, rows are the truth, columns what was predicted (`dcn.metrics.MeanIoU.confusion`).
        classes: names.
        normalize: show shares of each row (0..1) instead of counts.
        path: also write the PNG there.

    Returns:
        The PNG.
    """
    values = np.asarray(counts, dtype=np.float64)
    if values.shape != (len(classes), len(classes)):
        raise ValueError(f"counts: expected [{len(classes)}, {len(classes)}] for the classes, got {list(values.shape)}")
    if normalize:
        values = values / np.maximum(values.sum(1, keepdims=True), 1)
    side = min(14.0, 1.8 + 0.36 * len(classes))
    figure, axes = _axes((side, side))
    top = values.max() or 1.0
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top)
    axes.grid(visible=False)
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="annotated")
    for (row, column), value in np.ndenumerate(values):
        if value and len(classes) <= 25:
            text = f"{value:.2f}" if normalize else f"{value:.3g}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=6.5, color="w" if value > 0.6 * top else "k"
            )
    return _png(figure, path)


def histogram(counts: npt.ArrayLike, edges: npt.ArrayLike, *, xlabel: str, path: StrPath | None = None) -> bytes:
    """A histogram from counts ``[B]`` and bin edges ``[B + 1]``, as in `dcn.vis.OffsetStatistics`. Returns the PNG."""
    figure, axes = _axes((6.4, 3.2))
    axes.stairs(np.asarray(counts), np.asarray(edges), fill=True, color=_LINE_COLORS[0])
    axes.set(xlabel=xlabel, ylabel="count")
    return _png(figure, path)


def spread_bars(
    rows: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    ylabel: str,
    marks: Mapping[str, float] | None = None,
    mark_label: str = "",
    path: StrPath | None = None,
) -> bytes:
    """Groups of bars with their standard deviations, as `dcn.analysis.dilation_statistics` gives them.

    Args:
        rows: by group, such as a layer, by kind: mean and standard deviation; NaN leaves a gap. The kinds of the first
            group are those of all, a colour each.
        ylabel: what is measured.
        marks: a value by group to compare with, drawn as a line across its bars.
        mark_label: what the marks are.
        path: also write the PNG there.

    Returns:
        The PNG.
    """
    if not rows:
        raise ValueError("rows: expected at least one group, got none")
    kinds = list(next(iter(rows.values())))
    inches = 0.24 * (len(kinds) + 1)  # of a group
    figure, axes = _axes((min(24.0, 2.4 + inches * len(rows)), 4.2))
    positions, width = np.arange(len(rows)), 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        means, spreads = np.array([row[kind] for row in rows.values()], dtype=np.float64).T
        x = positions + (number - (len(kinds) - 1) / 2) * width
        color = _LINE_COLORS[number % len(_LINE_COLORS)]
        label = kind if np.isfinite(means).any() else None
        axes.bar(x, means, 0.9 * width, yerr=spreads, label=label, color=color, ecolor="#333333", capsize=2)
    if marks is not None:
        values = [marks.get(group, math.nan) for group in rows]
        axes.hlines(values, positions - 0.45, positions + 0.45, colors="k", linestyles=(0, (2, 1.5)), label=mark_label)
    turned = max(map(len, rows)) > 15 * inches  # letters of 8 points in an inch
    axes.set_xticks(positions, list(rows), rotation=90 if turned else 0, fontsize=8)
    axes.grid(visible=False, axis="x")
    axes.set(ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    return _png(figure, path)


def _curves(lines: Mapping[str, tuple[Any, Any]], x: str, y: str, smooth: float, path: StrPath | None) -> bytes:
    if not 0 <= smooth < 1:
        raise ValueError(f"smooth: expected a number in [0, 1), got {smooth}")
    figure, axes = _axes((5.0, 3.4))
    for number, (name, (steps, values)) in enumerate(lines.items()):
        style = _style(number)
        if smooth and len(values) > 20:
            axes.plot(steps, values, **{**style, "alpha": 0.25, "linewidth": 0.8})
            axes.plot(steps, _smoothed(values, smooth), label=name, **style)
        else:
            axes.plot(steps, values, label=name, marker="o" if len(values) <= 20 else None, markersize=3.5, **style)
    axes.set(xlabel=x, ylabel=y)
    if min(value for _, values in lines.values() for value in values) >= 0:
        axes.set_ylim(bottom=0)
    furthest = max(step for steps, _ in lines.values() for step in steps)
    if min(step for steps, _ in lines.values() for step in steps) >= 0 < furthest:
        axes.set_xlim(0, 1.03 * furthest)  # one evaluation alone would stand on an axis of its own making
    _legend(axes, len(lines))
    return _png(figure, path)


def _points(rows: Sequence[Row], x: str, key: str) -> tuple[list[float], list[float]]:
    pairs = [(row[x], row[key]) for row in rows if _is_number(row.get(x)) and _is_number(row.get(key))]
    return [float(a) for a, _ in pairs], [float(b) for _, b in pairs]  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _keys(rows: Sequence[Row]) -> list[str]:
    return sorted({key for row in rows for key in row})


def _smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Running mean with a correction for its start, so that the first values are not pulled towards zero."""
    mean, out = 0.0, []
    for i, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        out.append(mean / (1 - weight**i))
    return out


def _figure(size: tuple[float, float]) -> Any:
    """A figure without pyplot: no global state, nothing to close."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _axes(size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure with one diagram."""
    figure = _figure(size)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _style(number: int) -> dict[str, Any]:
    repeat, color = divmod(number, len(_LINE_COLORS))
    return {"color": _LINE_COLORS[color], "linestyle": _LINE_STYLES[repeat % len(_LINE_STYLES)], "linewidth": 1.6}


def _legend(axes: Any, count: int) -> None:
    """Inside where there is room, beside the diagram for many lines; one line alone has its name elsewhere."""
    if count == 1:
        return
    if count > 8:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    else:
        axes.legend(loc="best", fontsize=9, framealpha=0.85, edgecolor="none")


def _png(figure: Any, path: StrPath | None) -> bytes:
    data = figure_png(figure)
    if path is not None:
        Path(path).write_bytes(data)
    return data


def calibration_curve(points: Sequence[tuple[float, float, int]], *, path: StrPath | None = None) -> bytes:
    """Accuracy over confidence, one point for each bin of scores; the area of a point is its share of the detections.

    Args:
        points: ``(confidence, accuracy, count)`` of each bin, the first two in 0..1.
        path: also write the PNG there.

    Returns:
        The PNG.
    """
    figure, axes = _axes((4.6, 4.2))
    total = sum(count for *_, count in points) or 1
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1, label="calibrated")
    confidence, accuracy = [x for x, *_ in points], [y for _, y, _ in points]
    axes.plot(confidence, accuracy, color=_LINE_COLORS[0], linewidth=1)
    sizes = [15 + 400 * count / total for *_, count in points]
    axes.scatter(confidence, accuracy, s=sizes, color=_LINE_COLORS[0], alpha=0.7, label="detections")
    axes.set(xlabel="mean score", ylabel="share of correct detections", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(fontsize="small", loc="upper left", markerscale=0.5)
    return _png(figure, path)


def field_maps(fields: Mapping[str, npt.ArrayLike], *, path: StrPath | None = None) -> bytes:
    """Receptive fields side by side, each scaled to its own largest value, with the unit in the middle.

    Args:
        fields: ``[H, W]`` of 0 or more by title, all of one size.
        path: also write the PNG there.

    Returns:
        The PNG.
    """
    if not fields:
        raise ValueError("fields: expected at least one, got none")
    figure = _figure((2.4 * len(fields), 2.8))
    arrays = {title: np.asarray(values, dtype=np.float64) for title, values in fields.items()}
    middle = next(iter(arrays.values())).shape[0] // 2
    positions = [np.argwhere(field > 1e-3 * field.max()) for field in arrays.values() if field.any()]
    reach = min(middle, 4 + max((int(np.abs(position - middle).max()) for position in positions), default=middle))
    inner = slice(middle - reach, middle + reach + 1)
    for panel, (title, whole) in zip(figure.subplots(1, len(fields), squeeze=False)[0], arrays.items(), strict=True):
        field = whole[inner, inner]
        # The square root shows the weak outer part, as in the figures of Luo et al.
        shown = np.sqrt(field / (field.max() or 1.0))
        panel.imshow(shown, cmap="inferno", extent=(-reach, reach, reach, -reach), vmin=0, vmax=1)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=7)
    return _png(figure, path)


def bar_panels(panels: Mapping[str, Mapping[str, float]], *, path: StrPath | None = None) -> bytes:
    """Bars of the same few things in several diagrams, each with an axis of its own.

    Args:
        panels: by title, such as ``"run time (ms)"``, the values by name.
        path: also write the PNG there.

    Returns:
        The PNG.
    """
    if not panels:
        raise ValueError("panels: expected at least one, got none")
    names = list(next(iter(panels.values())))
    figure = _figure((2.6 * len(panels) + 2, 0.9 + 0.4 * len(names)))
    positions = np.arange(len(names))
    columns = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for panel, (title, values) in zip(columns, panels.items(), strict=True):
        numbers = [values[name] for name in names]
        bars = panel.barh(positions, numbers, color=[_LINE_COLORS[i % len(_LINE_COLORS)] for i in positions])
        panel.bar_label(bars, [f"{number:.3g}" for number in numbers], padding=3, fontsize=8)
        panel.set_yticks(positions, names, fontsize=8)
        panel.set_title(title, fontsize=9)
        panel.set_xlim(0, 1.25 * max([*numbers, 1e-9]))
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    columns[0].invert_yaxis()
    return _png(figure, path)


@dataclass(frozen=True)
class Interval:
    """A value with its interval.

    Attributes:
        value: the middle mark.
        low: lower end; NaN: no interval is known, and the mark is hollow.
        high: upper end.
        shown: whether it is drawn in colour, else in grey.
    """

    value: float
    low: float
    high: float
    shown: bool


def interval_panels(
    groups: Mapping[str, Mapping[str, Sequence[Interval | None]]],
    titles: Sequence[str],
    *,
    path: StrPath | None = None,
) -> bytes:
    """Differences with their intervals in several diagrams beside each other, which share their lines.

    Args:
        groups: by heading the lines by name: one interval for each diagram, ``None`` where there is none.
        titles: of the diagrams.
        path: also write the PNG there.

    Returns:
        The PNG.
    """
    lines: list[tuple[str, Sequence[Interval | None] | None]] = []
    for heading, group in groups.items():
        lines += [(heading, None), *group.items()]
    figure = _figure((2.0 + 3.2 * len(titles), 0.7 + 0.24 * len(lines)))
    panels = figure.subplots(1, len(titles), squeeze=False, sharey=True)[0]
    for column, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        for position, (_, cells) in enumerate(lines):
            if cells is not None and (one := cells[column]) is not None:
                _draw_interval(panel, position, one)
        panel.axvline(0, color="k", linewidth=0.8)
        panel.set_title(title, fontsize=9)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.grid(visible=True, axis="x", color="#e4e4e4", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=8, left=False)
    panels[0].set_yticks(range(len(lines)), [name for name, _ in lines])
    panels[0].set_ylim(len(lines) - 0.4, -0.6)
    for label, (_, cells) in zip(panels[0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if cells is None else "normal")
    return _png(figure, path)


def _draw_interval(panel: Any, position: int, one: Interval) -> None:
    color = _LINE_COLORS[0] if one.shown else _LINE_COLORS[-1]
    known = math.isfinite(one.low) and math.isfinite(one.high)
    if known:
        panel.plot([one.low, one.high], [position] * 2, color=color, linewidth=3, solid_capstyle="butt", alpha=0.6)
    panel.plot(one.value, position, "o", color=color, markersize=6, fillstyle="full" if known else "none")


def intervals(rows: Mapping[str, tuple[float, float, float]], *, path: StrPath | None = None) -> bytes:
    """Differences with their intervals, a line for each, beside a line at zero.

    Args:
        rows: by name: value, low and high end.
        path: also write the PNG there.

    Returns:
        The PNG.
    """
    figure, axes = _axes((5.0, 0.8 + 0.35 * max(1, len(rows))))
    for position, (value, low, high) in enumerate(rows.values()):
        _draw_interval(axes, position, Interval(value, low, high, low > 0 or high < 0))
    axes.axvline(0, color="k", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    reach = 1.1 * max([abs(end) for ends in rows.values() for end in ends if math.isfinite(end)] + [1e-3])
    axes.set_xlim(-reach, reach)
    axes.locator_params(axis="x", nbins=5)
    return _png(figure, path)
