"""Sweeps the tiles of every kernel of deformable convolution: `python -m benchmarks.gpu --output FOLDER --suite tune`.

Rows are what to put into `dcn/kernels/triton/_tiles.py`; nothing is tuned while the package runs.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from itertools import product

import torch

from benchmarks.cases import ConvCase
from benchmarks.gpu import Row, Settings
from benchmarks.gpu.conv import LAYERS, cases, make_problem, products_in
from benchmarks.gpu.measure import machine
from benchmarks.gpu.timing import interleaved
from dcn.kernels.triton import _runtime, _tiles, deform_conv
from dcn.kernels.triton._tiles import Tile

KERNELS = {"forward": -1, "input": 0, "offset": 1, "weight": 2}  # which gradient is computed; the forward pass none
_KINDS = ("bfloat16", "tf32", "float32")
# Rows and columns to try; what is chosen by the number of programs (`_tiles.narrower`, `shorter`, `spread`) stays on.
_SIDES = {"input": ((32, 64, 128), (64, 128, 256)), "weight": ((64, 128, 256), (64, 128))}


def candidates(kernel: str, itemsize: int, quick: bool = False) -> list[Tile]:
    """Tiles worth a try; ``quick``: a third of them, with the smaller step of the product left out."""
    rows, columns = _SIDES.get(kernel, ((64, 128), (64, 128, 256)))
    inner = (32, 64) if itemsize == 2 else (16, 32)
    stages = (2, 3) if quick else (1, 2, 3)
    return [Tile(*numbers) for numbers in product(rows, columns, inner[1:] if quick else inner, (4, 8), stages)]


def rows(settings: Settings) -> Iterator[Row]:
    """Every kernel and tile on one layer of each stage, in batches of 2."""
    generation = _runtime.generation(settings.device)
    table = _tiles.TABLES.setdefault(generation, dict(_tiles.table(generation)))
    chosen = cases(settings) if settings.dry else [case.in_batch(2) for case in LAYERS if case.stride == 1]
    kinds = ("float16",) if settings.dry else _KINDS[:1] if settings.quick else _KINDS
    tried = {
        (kind, kernel): [] if settings.dry else candidates(kernel, 2 if kind == "bfloat16" else 4, settings.quick)
        for kind, kernel in product(kinds, KERNELS)
    }
    _compile_at_once([(case, *key, tile) for case in chosen for key, tiles in tried.items() for tile in tiles])
    for case, kind, kernel in product(chosen, kinds, KERNELS):
        with products_in(kind):
            problem = make_problem(case, kind, True, settings.device)
            itemsize = problem.tensors[0].element_size()
            before = table[kernel, itemsize]
            call = _call(problem.tensors, kernel, case.stride)
            for tile in [before, *tried[kind, kernel]]:
                with _tile_in_use(table, (kernel, itemsize), tile):
                    row = {**machine(settings.device), "suite": "tune", "generation": generation, "kernel": kernel}
                    row |= {"case": case.label, "kind": kind, **tile._asdict(), "now": int(tile == before)}
                    yield row | {"median_us": _time(call, settings)}


@contextmanager
def _tile_in_use(table: _tiles.Table, key: tuple[str, int], tile: Tile) -> Iterator[None]:
    before = table[key]
    table[key] = tile
    deform_conv.forget_plans()
    try:
        yield
    finally:
        table[key] = before
        deform_conv.forget_plans()


Trial = tuple[ConvCase, str, str, Tile]


def _compile_at_once(trials: list[Trial]) -> None:
    """Fill Triton's cache from several processes: the compiler takes seconds for a tile, the card microseconds."""
    if not trials:
        return
    workers = max(1, min(16, os.cpu_count() or 1) - 1)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_compile, trials))


def _compile(trial: Trial) -> None:
    case, kind, kernel, tile = trial
    device = torch.device("cuda:0")
    generation = _runtime.generation(device)
    table = _tiles.TABLES.setdefault(generation, dict(_tiles.table(generation)))
    with products_in(kind):
        tensors = make_problem(case, kind, True, device).tensors
        with _tile_in_use(table, (kernel, tensors[0].element_size()), tile), suppress(RuntimeError):
            _call(tensors, kernel, case.stride)()  # a tile that cannot run says so when it is timed


def _call(tensors: tuple[torch.Tensor, ...], kernel: str, stride: int) -> Callable[[], object]:
    x, offset, weight, grad = tensors
    x, grad = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, grad))
    geometry = ((stride, stride), (weight.shape[2] // 2,) * 2, (1, 1), "v2")
    if kernel == "forward":
        return lambda: deform_conv.forward(x, offset, weight, None, None, *geometry)
    chosen = KERNELS[kernel]
    needs = (chosen == 0, chosen == 1, chosen == 2, False)
    return lambda: deform_conv.backward(grad, x, offset, weight, None, *geometry, needs)


def _time(call: Callable[[], object], settings: Settings) -> float | str:
    """Microseconds, or why this tile cannot run."""
    try:
        return round(interleaved({"call": call}, 10, settings.device)["call"].median, 2)
    except RuntimeError as error:
        return str(error)[:120]


def summary(measured: list[Row]) -> list[str]:
    """The best tile of every kernel and case, and that of the table."""
    lines = []
    timed = [row for row in measured if isinstance(row["median_us"], float)]
    for key in dict.fromkeys((row["kernel"], row["kind"], row["case"]) for row in timed):
        group = [row for row in timed if (row["kernel"], row["kind"], row["case"]) == key]
        best = min(group, key=lambda row: float(row["median_us"]))
        now = [row["median_us"] for row in group if row["now"]]
        tile = Tile(*(int(best[field]) for field in Tile._fields))
        lines.append(f"{' '.join(map(str, key))}: {tuple(tile)} {best['median_us']} us, the table's {now}")
    return lines
