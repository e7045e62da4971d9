"""Times our operator and its competitors: `python -m benchmarks.run --suite conv --csv benchmarks/results/cpu.csv`.

Repetitions of the competitors are interleaved in one process with pauses between the calls (the idle pool of one slows
the next otherwise); a row holds median and 20th and 80th percentiles. Every competitor's result is checked first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks import memory
from benchmarks.cases import SUITES, ConvCase
from benchmarks.competitors import Competitor, available, largest_error, run
from benchmarks.record import FIELDS, Row, interleaved, machine, store, timing

LIMIT = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # beyond this a competitor is wrong and is not timed


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep cores busy with processes of their own."""
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _times(
    case: ConvCase, competitors: list[Competitor], train: bool, repetitions: int, pause: float
) -> dict[str, list[float]]:
    """Milliseconds of every call, by competitor."""
    tensors = case.tensors()
    calls = {c.name: partial(run, c, c.prepare(case, tensors[2]), tensors, train) for c in competitors}
    return interleaved(calls, repetitions, pause)


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    for index, case in enumerate(SUITES[arguments.suite]):
        if not any(part in case.label for part in arguments.cases):
            continue
        for direction in arguments.directions:
            train = direction == "train"
            able = [c for c in available() if case.dtype in c.dtypes and (c.trains or not train)]
            able = [c for c in able if not arguments.only or c.name in arguments.only]
            errors = {c.name: largest_error(c, case, train) for c in able}
            right = [c for c in able if errors[c.name] < LIMIT[case.dtype]]
            times = _times(case, right, train, arguments.repetitions, arguments.pause)
            for name in (c.name for c in able):
                row: Row = {
                    **machine(),
                    "load": f"{arguments.busy} cores busy" if arguments.busy else "idle",
                    "suite": arguments.suite,
                    "case": case.label,
                    "direction": direction,
                    "competitor": name,
                    "largest_error": f"{errors[name]:.1e}",
                }
                if name in times:
                    row |= timing(times[name])
                if arguments.memory:
                    ratio = memory.measure(arguments.suite, index, direction, name)
                    row["peak_ratio"] = "" if ratio is None else round(ratio, 3)
                yield row


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=SUITES, default="conv")
    parser.add_argument("--directions", nargs="+", choices=("forward", "train"), default=["forward", "train"])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="competitors to measure; default: all that are installed"
    )
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="TEXT", help="only cases whose label has one of these"
    )
    parser.add_argument("--csv", type=Path, help="file to keep the rows in")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--pause", type=float, default=0.03, help="seconds before every call")
    parser.add_argument("--busy", type=int, default=0, help="cores kept busy by other processes")
    parser.add_argument("--memory", action="store_true", help="also measure the peak memory (one process per row)")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    with busy_cores(arguments.busy):
        for row in rows(arguments):
            print(*(f"{row.get(field, ''):>12}" for field in FIELDS[7:]), flush=True)
            if arguments.csv:
                store(arguments.csv, row)


if __name__ == "__main__":
    main()
