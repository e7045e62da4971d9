"""`python -m benchmarks.gpu --output FOLDER [--suite NAME ...] [--quick] [--profile] [--dry]`."""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

import torch

from benchmarks.gpu import Row, Settings

# In this order; each a module of this package with `rows(settings)` and perhaps `summary(rows)`.
SUITES = ("accuracy", "conv", "roi", "networks", "first_call", "tune")
DEFAULT = ("accuracy", "conv", "roi", "networks", "first_call")


def run(suite: str, settings: Settings) -> list[Row]:
    """Measure one suite; its table is written row by row, so that an interrupted run leaves what it has."""
    module = importlib.import_module(f"benchmarks.gpu.{suite}")
    measured: list[Row] = []
    with (settings.output / f"{suite}.csv").open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row in module.rows(settings):
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            measured.append(row)
            print(*(value for key, value in row.items() if key not in ("date", "card", "versions")), flush=True)
    _summarise(suite, module, measured)
    return measured


def _summarise(suite: str, module: ModuleType, measured: list[Row]) -> None:
    summary = getattr(module, "summary", None)
    if summary is not None:
        print(f"\n{suite}", *summary(measured), sep="\n  ", flush=True)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--suite", nargs="+", choices=SUITES, default=list(DEFAULT))
    parser.add_argument("--quick", action="store_true", help="fewer cases: every suite within a few minutes")
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--profile", action="store_true", help="also write profiles of our own calls")
    parser.add_argument("--dry", action="store_true", help="tiny cases on the CPU, kernels interpreted")
    return parser.parse_args(given)


def _attempt(suite: str, settings: Settings) -> bool:
    """Whether a suite came to its end; an error is printed, and the next suite has its turn."""
    start = time.perf_counter()
    try:
        run(suite, settings)
    except Exception:  # noqa: BLE001 - whatever it was, the other suites still have their turn
        traceback.print_exc()
        return False
    finally:
        print(f"{suite}: {time.perf_counter() - start:.0f} s", flush=True)
    return True


def main(given: list[str] | None = None) -> int:
    """Measure what is asked for; 1 where there is no GPU or a suite ended with an error."""
    arguments = _arguments(given)
    if arguments.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        print("no GPU here; --dry runs everything on tiny cases without one", file=sys.stderr)
        return 1
    arguments.output.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if arguments.dry else "cuda:0")
    repetitions = min(arguments.repetitions, 15) if arguments.quick else arguments.repetitions
    settings = Settings(device, arguments.output, arguments.quick, repetitions, arguments.profile)
    ended_well = [_attempt(suite, settings) for suite in arguments.suite]
    return 0 if all(ended_well) else 1


if __name__ == "__main__":
    sys.exit(main())
