"""Curves of a run: ``loss.png`` and ``ap.png``, drawn from its ``metrics.jsonl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcn.engine.log import METRICS_FILE, read_rows
from dcn.suggest import is_measured

_NOT_LOSSES = ("lr", "epoch", "images_per_second", "gpu_gib")


def draw_plots(folder: Path) -> list[Path]:
    """Draw what there is to draw in a run folder; returns the files written."""
    rows = read_rows(folder / METRICS_FILE)
    training = [row for row in rows if row["kind"] == "train"]
    evaluated = [row for row in rows if row["kind"] == "eval"]
    losses = [name for name in _columns(training) if name not in _NOT_LOSSES and "/" not in name]
    scores = [name for name in _columns(evaluated) if _is_score(name) and _points(name, evaluated)]
    written = []
    for file, title, names, table in (("loss", "loss", losses, training), ("ap", "validation", scores, evaluated)):
        if names:
            written.append(folder / f"{file}.png")
            _draw(written[-1], title, names, table)
    return written


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return [name for name in rows[-1] if name not in ("kind", "step")] if rows else []


def _is_score(name: str) -> bool:
    """AP, AP50, mIoU ... of all classes together; of masks AP alone."""
    return name == "mask/AP" or (name.startswith(("AP", "mIoU")) and "/" not in name)


def _points(name: str, rows: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """The steps at which something was measured, and what; COCO's -1 and ``None`` stand for nothing."""
    return [(row["step"], row[name]) for row in rows if is_measured(row.get(name))]


def _draw(path: Path, title: str, names: list[str], rows: list[dict[str, Any]]) -> None:
    # Not pyplot: its global state would pick a window system, and this may run beside a user's own plots.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        points = _points(name, rows)
        steps, values = [step for step, _ in points], [value for _, value in points]
        axes.plot(steps, values, label=name, marker="o" if len(points) < 30 else "", markersize=3)
    axes.set(xlabel="step", ylabel=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    FigureCanvasAgg(figure).print_png(str(path))
