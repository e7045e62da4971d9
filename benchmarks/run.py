"""Times our operator and its competitors: `python -m benchmarks.run --suite conv --csv benchmarks/results/cpu.csv`.

Repetitions of the competitors are interleaved in one process with pauses between the calls (the idle pool of one slows
the next otherwise); a row holds median and 20th and 80th percentiles. Every competitor's result is checked first.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks import memory
from benchmarks.cases import SUITES, ConvCase
from benchmarks.competitors import Competitor, available, largest_error, run

LIMIT = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # beyond this a competitor is wrong and is not timed
FIELDS = (
    *("date", "machine", "cores", "threads", "load", "versions", "suite", "case", "direction", "competitor"),
    *("median_ms", "p20_ms", "p80_ms", "repetitions", "largest_error", "peak_ratio"),
)


@contextmanager
def _busy_cores(count: int) -> Iterator[None]:
    """Keeps cores busy with processes of their own."""
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def interleaved(
    case: ConvCase, competitors: list[Competitor], train: bool, repetitions: int, pause: float
) -> dict[str, list[float]]:
    """Milliseconds of every call, by competitor."""
    tensors = case.tensors()
    operators = {c.name: c.prepare(case, tensors[2]) for c in competitors}
    times: dict[str, list[float]] = {c.name: [] for c in competitors}
    for repetition in range(repetitions + 1):
        for competitor in competitors:
            time.sleep(pause)
            start = time.perf_counter()
            run(competitor, operators[competitor.name], tensors, train)
            if repetition > 0:  # the first round warms up
                times[competitor.name].append((time.perf_counter() - start) * 1e3)
    return times


def _machine() -> dict[str, str | int]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    names = ("torch", "torchvision", "onnxruntime")
    found = {name: _version(name) for name in names}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "machine": model or platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "versions": " ".join(f"{name} {version}" for name, version in found.items() if version),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, str | int | float]]:
    for index, case in enumerate(SUITES[arguments.suite]):
        for direction in arguments.directions:
            train = direction == "train"
            able = [c for c in available() if case.dtype in c.dtypes and (c.trains or not train)]
            able = [c for c in able if not arguments.only or c.name in arguments.only]
            errors = {c.name: largest_error(c, case, train) for c in able}
            right = [c for c in able if errors[c.name] < LIMIT[case.dtype]]
            times = interleaved(case, right, train, arguments.repetitions, arguments.pause)
            for name in (c.name for c in able):
                row: dict[str, str | int | float] = {
                    **_machine(),
                    "load": f"{arguments.busy} cores busy" if arguments.busy else "idle",
                    "suite": arguments.suite,
                    "case": case.label,
                    "direction": direction,
                    "competitor": name,
                    "largest_error": f"{errors[name]:.1e}",
                }
                if name in times:
                    low, *_, high = statistics.quantiles(times[name], n=5)
                    row |= {"median_ms": round(statistics.median(times[name]), 2), "repetitions": len(times[name])}
                    row |= {"p20_ms": round(low, 2), "p80_ms": round(high, 2)}
                if arguments.memory:
                    ratio = memory.measure(arguments.suite, index, direction, name)
                    row["peak_ratio"] = "" if ratio is None else round(ratio, 3)
                yield row


def _append(path: Path, row: dict[str, str | int | float]) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=SUITES, default="conv")
    parser.add_argument("--directions", nargs="+", choices=("forward", "train"), default=["forward", "train"])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="competitors to measure; default: all that are installed"
    )
    parser.add_argument("--csv", type=Path, help="file to append the rows to")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--pause", type=float, default=0.03, help="seconds before every call")
    parser.add_argument("--busy", type=int, default=0, help="cores kept busy by other processes")
    parser.add_argument("--memory", action="store_true", help="also measure the peak memory (one process per row)")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    with _busy_cores(arguments.busy):
        for row in rows(arguments):
            print(*(f"{row.get(field, ''):>12}" for field in FIELDS[7:]), flush=True)
            if arguments.csv:
                _append(arguments.csv, row)


if __name__ == "__main__":
    main()
