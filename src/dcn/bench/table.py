"""Measurements as a table for reading."""

from __future__ import annotations

from collections.abc import Sequence

from dcn.bench.measure import Measurement
from dcn.bench.workload import Workload


def table(measurements: Sequence[Measurement], work: Workload) -> str:
    """A column for each model."""
    rows = measurements
    what = "training" if work.train else "inference"
    files = [not work.train and not row.parts for row in rows]  # of `dcn export`, which have no parts
    precision: str = "in the precision of the files" if all(files) else work.precision
    precision += " (a file in its own precision)" if any(files) and not all(files) else ""
    lines = [
        f"{what}, {work.size[0]}x{work.size[1]}, batch {work.batch}, {precision}, {work.device}",
        _line("", [row.name for row in rows]),
        _line("images/s", [f"{row.images_per_second:.2f}" for row in rows]),
        _line("ms per image", [f"{row.milliseconds:.1f}" for row in rows]),
        _line("  20% .. 80%", [f"{row.low:.1f} .. {row.high:.1f}" for row in rows]),
        _line("peak memory, MiB", ["?" if row.peak_mib is None else f"{row.peak_mib:.0f}" for row in rows]),
    ]
    labels = dict.fromkeys(label for row in rows for label in row.parts)
    lines += [_line(label, [_share(row.parts.get(label, 0.0), row) for row in rows]) for label in labels]
    if not all(files):
        lines.append(_line("deformable layers", [_share(row.deformable, row) for row in rows]))
    if len(rows) == 2:
        lines.append(f"{rows[0].name} takes {rows[0].milliseconds / rows[1].milliseconds:.3f} times as long")
    return "\n".join(lines)


def _share(milliseconds: float, row: Measurement) -> str:
    total = sum(row.parts.values())
    if not row.parts:
        return ""
    return f"{milliseconds:.1f} ms {milliseconds / total:6.1%}" if total else "0.0 ms"


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:<18}" + "".join(f"  {cell:>32}" for cell in cells)
