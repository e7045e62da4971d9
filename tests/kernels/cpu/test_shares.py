"""How evenly the CPU kernels share their work out, for more threads than this machine may have.

The library goes through its own loops and adds up what their tasks cost instead of doing them (benchmarks/shares.py).
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from benchmarks.cases import AttentionCase, ConvCase, ModulatedCase
from benchmarks.roi import CASES as ROI
from benchmarks.shares import CASES, SharesCase, attention, conv, modulated, roi, shares, transposed
from torch import Tensor

from dcn import ops
from dcn.kernels.cpu import _library

MOST = 1.1
THREADS = (2, 3, 4, 5, 6, 7, 8, 11, 15, 22, 23, 33, 46, 54, 55, 59, 63, 64)
"""Among them those with the least even shares of benchmarks/results/shares.csv."""
TABLE = Path(__file__).parents[3] / "benchmarks" / "results" / "shares.csv"


def _label(case: SharesCase) -> str:
    return case.label


@pytest.mark.parametrize("case", [case for case in CASES if " 4x" not in case.label], ids=_label)
def test_no_thread_has_a_tenth_more_than_the_mean(case: SharesCase) -> None:
    for calls in case.calls().values():
        assert shares(calls, 1).over_mean == pytest.approx(1.0)
        assert max(shares(calls, threads).over_mean for threads in THREADS) <= MOST


def test_the_tracked_table_has_every_case_and_no_larger_share() -> None:
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    expected = {(case.label, direction) for case in CASES for direction in ("forward", "backward")}
    assert {(row["case"], row["direction"]) for row in rows} == expected
    assert max(float(row["largest_share"]) for row in rows) <= MOST


def _random(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=random) for shape in shapes)


def _masked() -> SharesCase:
    def run(*tensors: Tensor) -> Tensor:
        x, offset, weight, mask = tensors
        return ops.deform_conv2d(x, offset, weight, None, 1, 1, mask=mask, backend="cpu")

    shapes = ((1, 32, 30, 41), (1, 72, 30, 41), (32, 1, 3, 3), (1, 36, 30, 41))
    return SharesCase("depthwise, 4 offset groups, masks", lambda: _random(*shapes), run)


def _volume() -> SharesCase:
    shapes = ((1, 20, 9, 10, 11), (1, 81, 9, 10, 11), (20, 1, 3, 3, 3))
    return SharesCase(
        "depthwise, volumes",
        lambda: _random(*shapes),
        lambda x, offset, weight: ops.deform_conv3d(x, offset, weight, None, 1, 1, backend="cpu"),
    )


_DEPTHWISE = ConvCase("depthwise", 48, 30, 41, groups=48)
_ATTENTION = AttentionCase("attention", ((20, 26), (10, 13), (5, 7), (3, 4)), queries=400)
_GROUPS = ModulatedCase("one group at a time", 28, 28, 8)
_ROWS = ModulatedCase("runs of rows", 70, 90, 3, depth=12, batch=2)
SMALL = (
    *(conv(replace(_DEPTHWISE, dtype=dtype)) for dtype in (torch.float32, torch.float64, torch.bfloat16)),
    conv(ConvCase("strided depthwise", 70, 23, 31, stride=2, batch=2, groups=70)),
    conv(ConvCase("dense", 40, 30, 41)),
    _masked(),
    _volume(),
    transposed(_DEPTHWISE),
    *(attention(replace(_ATTENTION, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)),
    attention(replace(_ATTENTION, heads=3, channels=24, batch=2)),
    *(modulated(replace(_GROUPS, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)),
    *(modulated(replace(_ROWS, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)),
    *(roi(case) for case in ROI[:-1]),  # the last takes seconds
)


def _with_threads(threads: int, calls: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    with mock.patch.object(_library, "threads", return_value=threads):
        return calls()


def _one_after_the_other(threads: int, calls: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    results: list[Tensor] = []
    assert shares(lambda: results.extend(calls()), threads, timed=True).total > 0
    return tuple(results)


@pytest.mark.parametrize("case", SMALL, ids=_label)
def test_tasks_that_are_counted_are_those_that_are_done_and_give_the_same_bits(case: SharesCase) -> None:
    """One thread; the tasks of some threads one after the other, as they are told apart; these threads."""
    for calls in case.calls().values():
        expected = _with_threads(1, calls)
        for threads in (3, 9, 40):
            for actual in (_one_after_the_other(threads, calls), _with_threads(threads, calls)):
                assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True)), threads
