"""The measurements for a GPU run from end to end without one, on tiny cases: nothing is broken on the day of a GPU."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from benchmarks.gpu import Row, conv
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.measure import relative_error

from dcn.kernels.triton import _runtime

pytestmark = pytest.mark.skipif(not _runtime.interpreted(), reason="there is a GPU: run the measurements themselves")


def _table(folder: Path, suite: str) -> list[dict[str, str]]:
    with (folder / f"{suite}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_convolutions_are_checked_and_timed(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--dry", "--profile", "--suite", "conv"]) == 0
    rows = _table(tmp_path, "conv")
    assert {(row["direction"], row["contender"]) for row in rows} == {
        (direction, name) for direction in ("forward", "train") for name in ("dcn", "dcn NCHW", "conv2d")
    }
    assert all(float(row["median_us"]) > 0 for row in rows)
    assert all(float(row["error"]) < 1e-2 for row in rows if row["contender"] != "conv2d")
    assert len(list(tmp_path.glob("*.txt"))) == 2


def test_errors_are_tabulated_for_every_result_and_boundary(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--dry", "--suite", "accuracy"]) == 0
    rows = _table(tmp_path, "accuracy")
    assert {(row["boundary"], row["result"]) for row in rows} == {
        (boundary, result) for boundary in ("v1", "v2") for result in ("output", "input", "offset", "weight")
    }
    assert {row["verdict"] for row in rows} == {"right"}


def test_tiles_are_swept_for_every_kernel(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--dry", "--suite", "tune"]) == 0
    rows = _table(tmp_path, "tune")
    assert [row["kernel"] for row in rows] == ["forward", "input", "offset", "weight"]
    assert all(float(row["median_us"]) > 0 for row in rows)


def test_goals_are_judged_by_geometric_means() -> None:
    def row(case: str, contender: str, time: float, kind: str = "bfloat16") -> Row:
        return {"case": case, "direction": "forward", "contender": contender, "kind": kind, "median_us": time}

    rows = [row("a bfloat16", "dcn", 10.0), row("a bfloat16", "torchvision", 40.0, "float16")]
    rows += [row("b bfloat16", "dcn", 10.0), row("b bfloat16", "torchvision", 90.0, "float16")]
    rows += [row("c float16", "dcn", 1.0, "float16"), row("c float16", "torchvision", 1.0, "float16")]
    assert conv.summary(rows) == ["forward, torchvision float16 / dcn bfloat16: 6.00 over 2 cases, goal 5.00: reached"]


def test_an_error_that_is_not_a_number_is_infinite() -> None:
    good, bad = torch.ones(3, dtype=torch.float64), torch.tensor([1.0, float("nan"), 1.0])
    assert relative_error([good.float()], [good]) == 0.0
    assert relative_error([good, bad], [good, good]) == float("inf")
