"""Checks, then times, then the memory of everybody who can do a piece of work."""

from __future__ import annotations

import datetime
import importlib.metadata
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu import Row, Settings
from benchmarks.gpu.roofline import floor
from benchmarks.gpu.timing import captured, extra_memory, interleaved

Results = tuple[Tensor, ...]
# Relative error, |ours - float64| / |float64|, from which on a result is wrong and its maker is not timed.
LIMIT = {"float64": 1e-12, "float32": 1e-5, "tf32": 1e-3, "float16": 1e-2, "bfloat16": 1e-2}


@dataclass(frozen=True)
class Work:
    """Something to compute.

    Attributes:
        suite: name of the table.
        case: what tells this row from others.
        direction: ``"forward"`` or ``"train"`` (forward and backward).
        kind: type of the data; ``"tf32"``: float32 with TF32 products.
        flops: operations of its matrix products.
        moved: bytes of all that is read and written, each once.
        columns: bytes of the column buffer of the usual implementation, to compare memory with; 0: there is none.
    """

    suite: str
    case: str
    direction: str
    kind: str
    flops: float
    moved: float
    columns: int = 0


@dataclass(frozen=True)
class Contender:
    """Somebody who can do it.

    Attributes:
        name: of the implementation.
        run: one call; returns all results.
        canonical: results as they are compared.
        compared: False for an implementation of something else (an ordinary convolution as the floor).
        kind: type of its data where it differs from the work's.
    """

    name: str
    run: Callable[[], Results]
    canonical: Callable[[Results], Results] = lambda results: results
    compared: bool = True
    kind: str | None = None


def relative_error(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest over all results of ``|result - expected| / |expected|``; infinite where something is not finite."""
    worst = 0.0
    for result, reference in zip(results, expected, strict=True):
        error = (result.double() - reference).norm() / reference.norm().clamp_min(1e-300)
        worst = max(worst, float(error) if torch.isfinite(error) else float("inf"))
    return worst


def rows(work: Work, contenders: Sequence[Contender], expected: Sequence[Tensor], settings: Settings) -> Iterator[Row]:
    """One row per contender; one whose result is wrong has an error and no time, one that cannot run says why."""
    outcomes = {c.name: _attempt(c, expected) for c in contenders}
    errors = {name: result for name, result in outcomes.items() if isinstance(result, float)}
    notes = {name: result for name, result in outcomes.items() if isinstance(result, str)}
    right = [c for c in contenders if c.name not in notes and errors.get(c.name, 0.0) < LIMIT[c.kind or work.kind]]
    calls: dict[str, Callable[[], object]] = {c.name: c.run for c in right}
    modes = dict.fromkeys(calls, "eager")
    if settings.device.type == "cuda":
        graphs = {name: captured(call) for name, call in calls.items()}
        modes |= {name: "graph" for name, graph in graphs.items() if graph is not None}
        calls |= {name: graph for name, graph in graphs.items() if graph is not None}
    times = interleaved(calls, settings.repetitions, settings.device)
    least = floor(work.flops, work.moved, work.kind, settings.device)
    for contender in contenders:
        row = {**machine(settings.device), "suite": work.suite, "case": work.case, "direction": work.direction}
        row |= {"kind": contender.kind or work.kind, "contender": contender.name}
        row |= {"error": f"{errors[contender.name]:.1e}" if contender.name in errors else ""}
        row |= dict.fromkeys(("mode", "median_us", "p20_us", "p80_us", "floor_us", "reached"), "")
        row |= dict.fromkeys(("extra_mib", "share_of_columns"), "")
        if contender in right:
            taken = times[contender.name]
            row |= {"mode": modes[contender.name], "median_us": round(taken.median, 2), "p20_us": round(taken.low, 2)}
            row |= {"p80_us": round(taken.high, 2), "floor_us": round(least, 2)}
            row |= {"reached": round(least / taken.median, 3)}
            extra = extra_memory(contender.run, settings.device)
            row |= {"extra_mib": round(extra / 2**20, 3)}
            row |= {"share_of_columns": round(extra / work.columns, 4)} if work.columns else {}
        yield row | {"note": notes.get(contender.name, "")}


def _attempt(contender: Contender, expected: Sequence[Tensor]) -> float | str | None:
    """The error of a call, None for one that is not compared, or why it cannot be made."""
    try:
        results = contender.run()
        return relative_error(contender.canonical(results), expected) if contender.compared else None
    except Exception as failure:  # noqa: BLE001 - whatever an implementation raises, it loses only its own row
        return f"{type(failure).__name__}: {failure}".splitlines()[0][:200]


def surviving(name: str, measurements: Iterator[Row]) -> Iterator[Row]:
    """The rows of one case; an error ends them and is printed, and the next case has its turn."""
    try:
        yield from measurements
    except Exception:  # noqa: BLE001 - as above
        print(f"{name} ended with an error", file=sys.stderr)
        traceback.print_exc()


def machine(device: torch.device) -> Row:
    """Date, card and versions."""
    card = "dry run" if device.type == "cpu" else torch.cuda.get_device_name(device)
    names = ("torch", "triton", "torchvision", "deformops")
    versions = {name: version for name in names if (version := _version(name)) is not None}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "card": card,
        "versions": " ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
