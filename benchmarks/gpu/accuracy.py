"""Relative errors of our operator on the card, for every type and boundary, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.cases import ConvCase
from benchmarks.gpu import Row, Settings
from benchmarks.gpu.conv import make_problem, products_in
from benchmarks.gpu.measure import LIMIT, machine, relative_error
from dcn.kernels.reference import deform_conv as reference
from dcn.kernels.triton import deform_conv

CASES = (
    ConvCase("dense", 256, 50, 84),
    ConvCase("stride", 128, 50, 84, stride=2),
    ConvCase("groups", 128, 25, 42, groups=32),
    ConvCase("depthwise", 96, 25, 42, groups=96),
    ConvCase("odd", 35, 13, 17, batch=3, kernel=5),
)
NAMES = ("output", "input", "offset", "weight")


def rows(settings: Settings) -> Iterator[Row]:
    """One row per case, type, boundary and result."""
    for case, kinds in _cases(settings):
        for kind in kinds:
            for boundary in ("v1", "v2"):
                with products_in(kind):
                    errors = _errors(case, kind, boundary, settings)
                for name, error in errors.items():
                    row = {**machine(settings.device), "suite": "accuracy", "case": case.label, "kind": kind}
                    row |= {"boundary": boundary, "result": name, "error": f"{error:.1e}", "limit": LIMIT[kind]}
                    yield row | {"verdict": "right" if error < LIMIT[kind] else "WRONG"}


def _cases(settings: Settings) -> list[tuple[ConvCase, tuple[str, ...]]]:
    """Cases and their types. Most of the time is the compiler's: fewer of both if quick."""
    if settings.dry:
        return [(replace(CASES[-1], channels=5, height=3, width=4, batch=1, kernel=1), ("float32", "float16"))]
    if settings.quick:
        return [(CASES[0], ("float32", "tf32", "bfloat16")), *((case, ("bfloat16",)) for case in CASES[3:])]
    return [(case, tuple(LIMIT)) for case in CASES]


def _errors(case: ConvCase, kind: str, boundary: str, settings: Settings) -> dict[str, float]:
    x, offset, weight, grad = make_problem(case, kind, True, settings.device).tensors
    geometry = ((case.stride,) * 2, (case.kernel // 2,) * 2, (1, 1), boundary)
    needs = (True, True, True, False)
    exact = (x.double(), offset.double(), weight.double())
    ours = (
        deform_conv.forward(x, offset, weight, None, None, *geometry),
        *deform_conv.backward(grad, x, offset, weight, None, *geometry, needs)[:3],
    )
    theirs = (
        reference.forward(*exact, None, None, *geometry),
        *reference.backward(grad.double(), *exact, None, *geometry, needs)[:3],
    )
    return {
        name: relative_error([a], [b])
        for name, a, b in zip(NAMES, ours, theirs, strict=True)
        if a is not None and b is not None
    }


def summary(measured: list[Row]) -> list[str]:
    """The worst row of every type."""
    worst: dict[object, Row] = {}
    for row in measured:
        if row["kind"] not in worst or float(row["error"]) > float(worst[row["kind"]]["error"]):
            worst[row["kind"]] = row
    return [
        f"{kind}: worst {row['error']} of {row['limit']}, {row['case']} {row['result']}" for kind, row in worst.items()
    ]
