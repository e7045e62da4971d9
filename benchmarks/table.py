"""Makes the markdown tables of the docs from measured rows: `python -m benchmarks.table benchmarks/results/cpu.csv`.

The newest row of each machine, case and competitor counts. Times are medians in milliseconds; the ratio is dcn to
conv2d.
"""

from __future__ import annotations

import csv
import sys
from math import exp, log
from pathlib import Path

COMPETITORS = ("dcn", "conv2d", "onnxruntime", "torchvision")
Key = tuple[str, str, str, str, str]  # machine, suite, direction, load, case


def newest(path: Path) -> dict[Key, dict[str, dict[str, str]]]:
    """Rows by what was measured, then by competitor."""
    measured: dict[Key, dict[str, dict[str, str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            key = (row["machine"], row["suite"], row["direction"], row["load"], row["case"])
            measured.setdefault(key, {})[row["competitor"]] = row
    return measured


def _ratio(rows: dict[str, dict[str, str]], other: str) -> float | None:
    """Time of dcn over that of another, None where one of them was not timed."""
    if not all(name in rows and rows[name]["median_ms"] for name in ("dcn", other)):
        return None
    return float(rows["dcn"]["median_ms"]) / float(rows[other]["median_ms"])


def _line(case: str, rows: dict[str, dict[str, str]]) -> str:
    times = [rows[name]["median_ms"] or "wrong" if name in rows else "" for name in COMPETITORS]
    ratio = _ratio(rows, "conv2d")
    memory = rows.get("dcn", {}).get("peak_ratio", "")
    return f"| {case} | {' | '.join(times)} | {'' if ratio is None else f'{ratio:.2f}'} | {memory} |"


def _summary(group: list[dict[str, dict[str, str]]]) -> str:
    parts = []
    for name in COMPETITORS[1:]:
        ratios = [ratio for rows in group if (ratio := _ratio(rows, name)) is not None]
        if ratios:
            mean = exp(sum(map(log, ratios)) / len(ratios))
            parts.append(f"{mean:.2f} x {name} ({min(ratios):.2f} to {max(ratios):.2f})")
    return f"Time of dcn, geometric mean (range): {', '.join(parts)}." if parts else ""


def tables(path: Path) -> str:
    measured = newest(path)
    text: list[str] = []
    for section in dict.fromkeys(key[:4] for key in measured):
        _, suite, direction, load = section
        group = {key[4]: rows for key, rows in measured.items() if key[:4] == section}
        row = next(iter(next(iter(group.values())).values()))
        text += [
            f"### {suite}, {direction}, {load}",
            "",
            f"{row['machine']}, {row['threads']} threads. {row['versions']}.",
        ]
        text += ["", f"| case | {' | '.join(COMPETITORS)} | dcn / conv2d | peak memory |", "|---|" + "---:|" * 6]
        text += [_line(case, rows) for case, rows in group.items()]
        text += ["", _summary(list(group.values())), ""]
    return "\n".join(text)


if __name__ == "__main__":
    print(tables(Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/results/cpu.csv")))
