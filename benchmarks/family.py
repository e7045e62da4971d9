"""Times attention, DCNv3 and DCNv4 against the formulas that everybody falls back to.

    python -m benchmarks.family --memory --csv benchmarks/results/cpu.csv

Both run by turns in one process, on 2 threads; each is compared first with this package's reference. Peak memory is
that of one call in a process of its own, as a multiple of inputs and outputs (benchmarks/memory.py says how).
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import formulas
from benchmarks.cases import ATTENTION, MODULATED, AttentionCase, ModulatedCase
from benchmarks.memory import _status
from benchmarks.record import Row, interleaved, machine, store, timing
from dcn import ops

# Largest error as a share of the largest value, beyond which an implementation is wrong and is not timed.
_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class FamilyCase:
    """One operator on one size; all functions take the tensors of ``tensors``, which all want gradients.

    Attributes:
        label: name and sizes.
        tensors: makes the inputs, the data first.
        implementations: ``"dcn"`` first, then the formula.
        reference: what they are compared with.
        tiny: the same operator on a tiny size: run first, it loads what a process loads once.
    """

    label: str
    tensors: Callable[[], tuple[Tensor, ...]]
    implementations: dict[str, Function]
    reference: Function
    tiny: FamilyCase | None


def _attention(case: AttentionCase) -> FamilyCase:
    shapes = torch.tensor(case.levels)

    def ours(backend: str) -> Function:
        return lambda value, *rest: ops.ms_deform_attn(value, shapes, None, *rest, backend=backend)

    def formula(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return formulas.ms_deform_attn(value, case.levels, locations, weights)

    both = {"dcn": ours("cpu"), "grid_sample": formula}
    small = replace(case, levels=((2, 2),) * len(case.levels), queries=1)
    tiny = None if case == small else _attention(small)
    return FamilyCase(f"ms_deform_attn {case.label}", case.tensors, both, ours("reference"), tiny)


def _modulated(case: ModulatedCase, name: str) -> FamilyCase:
    operator, formula = getattr(ops, name), getattr(formulas, name)

    def ours(backend: str) -> Function:
        return lambda *tensors: operator(*tensors, 3, padding=1, groups=case.groups, backend=backend)

    both = {"dcn": ours("cpu"), "grid_sample": lambda *tensors: formula(*tensors, 3, 1, case.groups)}
    small = replace(case, height=2, width=2)
    tiny = None if case == small else _modulated(small, name)
    tensors = case.tensors if name == "dcnv3" else case.fused
    return FamilyCase(f"{name} {case.label}", tensors, both, ours("reference"), tiny)


CASES = (
    *(_attention(case) for case in ATTENTION),
    *(_modulated(case, name) for name in ("dcnv3", "dcnv4") for case in MODULATED),
)
"""A row per operator and size."""


def run(function: Function, tensors: tuple[Tensor, ...], train: bool) -> list[Tensor]:
    """Forward, or forward and all gradients."""
    if not train:
        with torch.no_grad():
            return [function(*tensors)]
    leaves = [t.detach().requires_grad_() for t in tensors]
    output = function(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output))]


def _error(actual: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(actual, expected, strict=True)
    return max(float((a.double() - b.double()).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def peak_ratio(case: FamilyCase, name: str, train: bool) -> float:
    """Peak memory of one call as a multiple of inputs, outputs and gradients, in a process that did nothing before."""
    function, tensors = case.implementations[name], case.tensors()
    if case.tiny:
        run(case.tiny.implementations[name], case.tiny.tensors(), train)
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tensors left behind would be used again unseen
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    results = run(function, tensors, train)
    inputs = sum(t.nbytes for t in tensors)
    # Training also reads the gradient of the output, which torch makes within the call.
    given = inputs + (results[0].nbytes if train else 0)
    return (inputs + _status("VmHWM") - before) / (given + sum(t.nbytes for t in results))


def _measured_peak(index: int, direction: str, name: str, threads: int) -> float | None:
    if sys.platform != "linux":
        return None
    command = [sys.executable, "-m", "benchmarks.family", "--peak", str(index), direction, name]
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def rows(index: int, direction: str, options: argparse.Namespace) -> Iterator[Row]:
    """One row per implementation."""
    case, train = CASES[index], direction == "train"
    tensors = case.tensors()
    expected = run(case.reference, tuple(t.float() for t in tensors), train)
    limit = _LIMITS[tensors[0].dtype]
    errors = {name: _error(run(f, tensors, train), expected) for name, f in case.implementations.items()}
    calls = {n: (lambda f=f: run(f, tensors, train)) for n, f in case.implementations.items() if errors[n] < limit}
    times = interleaved(calls, options.repetitions, options.pause)
    for name, error in errors.items():
        row: Row = {"suite": "family", "case": case.label, "direction": direction}
        row |= {**machine(), "load": "idle", "competitor": name, "largest_error": f"{error:.1e}"}
        peak = _measured_peak(index, direction, name, options.threads) if options.memory else None
        yield row | (timing(times[name]) if name in times else {}) | ({"peak_ratio": f"{peak:.2f}"} if peak else {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directions", nargs="+", choices=("forward", "train"), default=["forward", "train"])
    parser.add_argument("--cases", nargs="+", default=[""], metavar="TEXT", help="only cases whose label has one")
    parser.add_argument("--csv", type=Path, help="file to keep the rows in")
    parser.add_argument("--memory", action="store_true", help="peak memory too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--pause", type=float, default=0.03, help="seconds before every call")
    parser.add_argument("--peak", nargs=3, metavar=("INDEX", "DIRECTION", "NAME"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        index, direction, name = options.peak
        print(peak_ratio(CASES[int(index)], name, direction == "train"))
        return
    for index, case in enumerate(CASES):
        for direction in options.directions if any(part in case.label for part in options.cases) else ():
            measured = list(rows(index, direction, options))
            for row in measured:
                faster = (
                    float(row["median_ms"]) / float(measured[0]["median_ms"]) if "median_ms" in row else float("nan")
                )
                shown = (row["competitor"], f"{row.get('median_ms', 'wrong')} ms", f"x{faster:.1f}")
                more = (f"error {row['largest_error']}", f"peak {row.get('peak_ratio', '-')}")
                print(case.label, direction, *shown, *more, flush=True)
                if options.csv:
                    store(options.csv, row)


if __name__ == "__main__":
    main()
