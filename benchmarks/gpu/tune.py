"""Sweeps the tiles of every kernel of deformable convolution: `python -m benchmarks.gpu --output FOLDER --suite tune`.

Rows are what to put into `dcn/kernels/triton/_tiles.py`; nothing is tuned while the package runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch

from benchmarks.gpu import Row, Settings
from benchmarks.gpu.conv import LAYERS, cases, make_problem, products_in
from benchmarks.gpu.measure import machine
from benchmarks.gpu.timing import interleaved
from dcn.kernels.triton import _runtime, _tiles, deform_conv
from dcn.kernels.triton._tiles import Tile

KERNELS = {"forward": -1, "input": 0, "offset": 1, "weight": 2}  # which gradient is wanted; the forward pass none
_KINDS = ("bfloat16", "tf32", "float32")


def candidates(kernel: str, itemsize: int) -> list[Tile]:
    """Tiles worth a try."""
    rows, columns = ((64, 128), (64, 128, 256)) if kernel != "input" else ((32, 64, 128), (64, 128, 256))
    inner = (32, 64) if itemsize == 2 else (16, 32)
    return [Tile(*numbers) for numbers in product(rows, columns, inner, (4, 8), (1, 2, 3))]


def rows(settings: Settings) -> Iterator[Row]:
    """Every kernel and tile on one layer of each stage, in batches of 2."""
    generation = _runtime.generation(settings.device)
    table = _tiles.TABLES.setdefault(generation, dict(_tiles.table(generation)))
    chosen = cases(settings) if settings.dry else [case.in_batch(2) for case in LAYERS if case.stride == 1]
    kinds = ("float16",) if settings.dry else _KINDS[:1] if settings.quick else _KINDS
    for case, kind, kernel in product(chosen, kinds, KERNELS):
        with products_in(kind):
            problem = make_problem(case, kind, True, settings.device)
            itemsize = problem.tensors[0].element_size()
            before = table[kernel, itemsize]
            call = _call(problem.tensors, kernel, case.stride)
            for tile in [before, *([] if settings.dry else candidates(kernel, itemsize))]:
                table[kernel, itemsize] = tile
                deform_conv.forget_plans()
                row = {**machine(settings.device), "suite": "tune", "generation": generation, "kernel": kernel}
                row |= {"case": case.label, "kind": kind, **tile._asdict(), "now": int(tile == before)}
                yield row | {"median_us": _time(call, settings)}
            table[kernel, itemsize] = before
            deform_conv.forget_plans()


def _call(tensors: tuple[torch.Tensor, ...], kernel: str, stride: int) -> Callable[[], object]:
    x, offset, weight, grad = tensors
    x, grad = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, grad))
    geometry = ((stride, stride), (weight.shape[2] // 2,) * 2, (1, 1), "v2")
    if kernel == "forward":
        return lambda: deform_conv.forward(x, offset, weight, None, None, *geometry)
    wanted = KERNELS[kernel]
    needs = (wanted == 0, wanted == 1, wanted == 2, False)
    return lambda: deform_conv.backward(grad, x, offset, weight, None, *geometry, needs)


def _time(call: Callable[[], object], settings: Settings) -> float | str:
    """Microseconds, or why this tile cannot run."""
    try:
        return round(interleaved({"call": call}, 10, settings.device)["call"].median, 2)
    except RuntimeError as error:
        return str(error)[:120]


def summary(found: list[Row]) -> list[str]:
    """The best tile of every kernel and case, and that of the table."""
    lines = []
    timed = [row for row in found if isinstance(row["median_us"], float)]
    for key in dict.fromkeys((row["kernel"], row["kind"], row["case"]) for row in timed):
        group = [row for row in timed if (row["kernel"], row["kind"], row["case"]) == key]
        best = min(group, key=lambda row: float(row["median_us"]))
        now = [row["median_us"] for row in group if row["now"]]
        tile = Tile(*(int(best[field]) for field in Tile._fields))
        lines.append(f"{' '.join(map(str, key))}: {tuple(tile)} {best['median_us']} us, the table's {now}")
    return lines
