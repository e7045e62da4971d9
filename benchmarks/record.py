"""Rows of measurements: times of interleaved calls, the machine they were taken on, and the file they are kept in."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

FIELDS = (
    *("date", "machine", "cores", "threads", "load", "versions", "suite", "case", "direction", "competitor"),
    *("median_ms", "p20_ms", "p80_ms", "repetitions", "largest_error", "peak_ratio"),
)
KEY = ("machine", "suite", "case", "direction", "load", "competitor")
Row = dict[str, str | int | float]


def interleaved(calls: Mapping[str, Callable[[], object]], repetitions: int, pause: float) -> dict[str, list[float]]:
    """Milliseconds of every call by name, taken in turn; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            time.sleep(pause)
            start = time.perf_counter()
            call()
            if repetition > 0:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def timing(times: list[float]) -> Row:
    """Median and 20th and 80th percentiles."""
    low, *_, high = statistics.quantiles(times, n=5)
    return {
        "median_ms": round(statistics.median(times), 2),
        "p20_ms": round(low, 2),
        "p80_ms": round(high, 2),
        "repetitions": len(times),
    }


def machine() -> Row:
    """When and where."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    versions = {name: _version(name) for name in ("torch", "torchvision", "onnxruntime")}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "machine": model or platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "versions": " ".join(f"{name} {version}" for name, version in versions.items() if version),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def store(path: Path, row: Row) -> None:
    """Add a row to the file; an older one of the same machine, suite, case, direction, load and competitor goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: list[Mapping[str, object]] = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [old for old in csv.DictReader(file) if any(old[name] != str(row[name]) for name in KEY)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows([*kept, row])
