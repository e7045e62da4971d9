"""Diagrams of a dataset: histograms of sizes, ratios and numbers of objects, and bars by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcn.vis.fonts import figure_png

_COLOR = "#0072b2"
_BINS = 40
_MOST_BARS = 30


def data_histograms(columns: Mapping[str, Sequence[float]], counts: Mapping[str, int]) -> bytes:
    """Histograms of numbers, and bars of the objects of each class.

    Args:
        columns: positive or zero values by the title of their diagram; titles that end in ``(log)`` have a logarithmic
            axis.
        counts: objects by class; the 30 most frequent are drawn.

    Returns:
        The PNG.
    """
    figure, axes = _panels(len(columns) + 1)
    for panel, (title, values) in zip(axes, columns.items(), strict=False):
        _histogram(panel, title, np.asarray(values, dtype=np.float64))
    _bars(axes[len(columns)], "objects by class", counts)
    return figure_png(figure)


def class_bars(diagrams: Mapping[str, Mapping[str, float]]) -> bytes:
    """Diagrams of bars side by side: by title a number for each class, of which the 30 largest are drawn.

    Returns:
        The PNG.
    """
    most = max((min(len(values), _MOST_BARS) for values in diagrams.values()), default=1)
    figure, axes = _panels(len(diagrams), max(2.0, 0.6 + 0.16 * most))
    for panel, (title, values) in zip(axes, diagrams.items(), strict=False):
        _bars(panel, title, values)
    return figure_png(figure)


def _panels(count: int, height: float = 3.2) -> tuple[Any, Any]:
    """A figure with ``count`` diagrams in two columns, each ``height`` inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = (count + 1) // 2
    figure = Figure(figsize=(10, height * rows), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, squeeze=False).flatten()
    for panel in axes[count:]:
        panel.set_visible(False)
    return figure, axes


def _histogram(panel: Any, title: str, values: Any) -> None:
    if title.endswith("(log)"):
        values = values[values > 0]
        low, high = (values.min(), values.max()) if len(values) else (1, 1)
        panel.hist(values, bins=np.geomspace(low * 0.99, high * 1.01, _BINS), color=_COLOR)
        panel.set_xscale("log")
    else:
        panel.hist(values, bins=_BINS, color=_COLOR)
    panel.set_title(title, fontsize=10)


def _bars(panel: Any, title: str, counts: Mapping[str, float]) -> None:
    shown = sorted(counts.items(), key=lambda item: -item[1])[:_MOST_BARS][::-1]
    panel.barh(range(len(shown)), [count for _, count in shown], color=_COLOR)
    panel.set_yticks(range(len(shown)), [name[:24] for name, _ in shown], fontsize=7)
    panel.set_title(title, fontsize=10)
