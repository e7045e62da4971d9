"""The measurements of RoI pooling and suppression run from end to end without a GPU, on tiny cases."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benchmarks.gpu import Row, roi
from benchmarks.gpu.__main__ import main

from dcn.kernels.triton import _runtime


@pytest.mark.skipif(not _runtime.interpreted(), reason="there is a GPU: run the measurements themselves")
def test_every_operator_is_checked_and_timed(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--dry", "--suite", "roi"]) == 0
    with (tmp_path / "roi.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    named = {(row["case"].rsplit(" of ")[0].split(" 2x")[0].split(" 1x")[0], row["direction"]) for row in rows}
    pools = {(name, way) for name in ("roi_align", "roi_pool", "deform_ps_roi_pool") for way in ("forward", "train")}
    suppressions = {"nms 40", "nms_keep 40", "nms by class 40", "nms_keep by class 40", "soft_nms by class 40"}
    assert named == pools | {(name, "forward") for name in (*suppressions, "box_voting 100")}
    assert all(float(row["median_us"]) > 0 for row in rows)
    assert all(float(row["error"]) < 1e-5 for row in rows)


def test_goals_are_judged_by_their_own_rows() -> None:
    def row(case: str, direction: str, time: float, contender: str = "dcn") -> Row:
        return {"case": case, "direction": direction, "contender": contender, "kind": "float32", "median_us": time}

    rows = [row("nms 12000", "forward", 1200.0), row("nms 12000", "forward", 1.0, "torchvision")]
    rows += [row("deform_ps_roi_pool 300x7x7 of 3969x38x63 float32", way, 800.0) for way in ("forward", "train")]
    rows += [row("deform_ps_roi_pool group 1 300x7x7 of 256x50x84 float32", "train", 2.0)]
    assert [line.rpartition(", float32: ")[2] for line in roi.summary(rows)] == [
        "800.0 us, goal 1000: reached",
        "1200.0 us, goal 1000: missed",
    ]
