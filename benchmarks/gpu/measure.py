"""Checks, then times, then the memory of everybody who can do a piece of work."""

from __future__ import annotations

import datetime
import importlib.metadata
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
    for result, wanted in zip(results, expected, strict=True):
        error = (result.double() - wanted).norm() / wanted.norm().clamp_min(1e-300)
        worst = max(worst, float(error) if torch.isfinite(error) else float("inf"))
    return worst


def rows(work: Work, contenders: Sequence[Contender], expected: Sequence[Tensor], settings: Settings) -> Iterator[Row]:
    """One row per contender; one whose result is wrong has an error and no time."""
    errors = {c.name: relative_error(c.canonical(c.run()), expected) for c in contenders if c.compared}
    right = [c for c in contenders if not c.compared or errors[c.name] < LIMIT[c.kind or work.kind]]
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
        row |= {"error": f"{errors[contender.name]:.1e}" if contender.compared else ""}
        row |= dict.fromkeys(("mode", "median_us", "p20_us", "p80_us", "floor_us", "reached"), "")
        row |= dict.fromkeys(("extra_mib", "share_of_columns"), "")
        if contender in right:
            found = times[contender.name]
            row |= {"mode": modes[contender.name], "median_us": round(found.median, 2), "p20_us": round(found.low, 2)}
            row |= {"p80_us": round(found.high, 2), "floor_us": round(least, 2)}
            row |= {"reached": round(least / found.median, 3)}
            extra = extra_memory(contender.run, settings.device)
            row |= {"extra_mib": round(extra / 2**20, 3)}
            row |= {"share_of_columns": round(extra / work.columns, 4)} if work.columns else {}
        yield row


def machine(device: torch.device) -> Row:
    """Date, card and versions."""
    card = "dry run" if device.type == "cpu" else torch.cuda.get_device_name(device)
    names = ("torch", "triton", "torchvision", "deformops")
    found = {name: version for name in names if (version := _version(name)) is not None}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "card": card,
        "versions": " ".join(f"{name} {version}" for name, version in found.items()),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
