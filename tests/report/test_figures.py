"""Every number of a report of files against hotcoco's own command and pycocotools, for the same files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dcn.cli.main import main
from dcn.report.diagnosis import ERRORS

from .coco_data import CLASSES, detections, truth
from .tables import Tables, number
from .test_diagnosis import NAMES, pycocotools_stats


@pytest.fixture(scope="module", params=[0.03, 0.15], ids=["good", "poor"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Annotations, a crowd region among them, and detections."""
    folder = tmp_path_factory.mktemp("files")
    data = truth(images=25)
    data["annotations"][5]["iscrowd"] = 1
    data["annotations"][5]["segmentation"] = {"size": [260, 260], "counts": [0, 67600]}
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "found.json").write_text(json.dumps(detections(data, request.param)))
    return folder / "truth.json", folder / "found.json"


@pytest.fixture(scope="module")
def page(files: tuple[Path, Path]) -> Tables:
    annotations, results = files
    assert main(["eval", "--results", str(results), "--annotations", str(annotations), "--report"]) == 0
    return Tables(results.parent / "found_report.html")


@pytest.fixture(scope="module")
def command(files: tuple[Path, Path]) -> dict[str, Any]:
    """What ``coco eval`` prints."""
    coco = shutil.which("coco", path=str(Path(sys.executable).parent)) or shutil.which("coco")
    assert coco is not None
    words = ["--tide", "--calibration", "--diagnostics", "--diag-score-thr", "0.3", "--json"]
    done = subprocess.run(
        [coco, "eval", "--gt", str(files[0]), "--dt", str(files[1]), *words], capture_output=True, text=True, check=True
    )
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_the_metrics_are_those_of_the_command_and_of_pycocotools(
    files: tuple[Path, Path], page: Tables, command: dict[str, Any]
) -> None:
    expected = pycocotools_stats(json.loads(files[0].read_text()), json.loads(files[1].read_text()))
    table = page.table("AP and AR")
    assert list(table) == list(NAMES)
    for name in NAMES:
        assert table[name]["value"] == f"{expected[name]:.3f}" == f"{command['metrics'][name]:.3f}"
    assert [page.tiles[name] for name in ("AP", "AP50", "AP75")] == [f"{expected[k]:.3f}" for k in NAMES[:3]]


def test_each_class_is_that_of_pycocotools(files: tuple[Path, Path], page: Tables) -> None:
    data, rows = (json.loads(path.read_text()) for path in files)
    table = page.table("AP by class")
    assert list(table) == list(CLASSES)
    for number_, name in enumerate(CLASSES, start=1):
        own = [row for row in data["annotations"] if row["category_id"] == number_]
        one = {**data, "annotations": own, "categories": [row for row in data["categories"] if row["id"] == number_]}
        expected = pycocotools_stats(one, [row for row in rows if row["category_id"] == number_])
        assert table[name]["AP"] == f"{expected['AP']:.3f}"
        assert table[name]["AP50"] == f"{expected['AP50']:.3f}"
        assert number(table[name]["objects"]) == len(own)


def test_the_kinds_of_error_are_those_of_the_command(page: Tables, command: dict[str, Any]) -> None:
    table = page.table("Kinds of error")
    for kind, meaning in ERRORS.items():
        assert number(table[meaning]["count"]) == command["tide"]["counts"][kind]
        assert table[meaning]["AP50 to gain"] == f"{command['tide']['delta_ap'][kind]:.3f}"


def test_the_calibration_is_that_of_the_command(page: Tables, command: dict[str, Any]) -> None:
    table = page.table("Detections of similar score")
    bins = [row for row in command["calibration"]["bins"] if row["count"]]
    assert len(table) == len(bins)
    for row, expected in zip(table.values(), bins, strict=True):
        assert number(row["detections"]) == expected["count"]
        assert row["mean score"] == f"{expected['avg_confidence']:.3f}"
        assert row["correct"] == f"{expected['avg_accuracy']:.3f}"


def test_the_images_are_those_of_the_command(files: tuple[Path, Path], page: Tables, tmp_path: Path) -> None:
    """The detections that count have a score of 0.3 or more: the command gets only those."""
    import hotcoco

    from dcn.report.diagnosis import evaluator

    data, rows = (json.loads(path.read_text()) for path in files)
    assert hotcoco.__version__
    shown = evaluator(data, [row for row in rows if row["score"] >= 0.3]).image_diagnostics()["img_summary"]
    every = evaluator(data, rows).image_diagnostics()["img_summary"]
    names = {row["file_name"]: row["id"] for row in data["images"]}
    table = page.table("Lowest F1 first")
    assert table
    for name, row in table.items():
        one = shown[names[name]]
        assert [number(row[key]) for key in ("correct", "wrong", "missed")] == [one["tp"], one["fp"], one["fn"]]
        assert row["AP50"] == f"{every[names[name]]['ap']:.3f}"
    best = max(shown[names[name]]["f1"] for name in table)
    assert all(one["f1"] >= best for image, one in shown.items() if image not in {names[name] for name in table})
