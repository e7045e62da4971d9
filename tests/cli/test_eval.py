from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcn.cli.main import main


def test_result_files_give_the_published_metrics(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = shared / "eval" / "voc100" / "coco_dets.json"
    command = ["eval", "--results", str(results), "--annotations", str(shared / "data" / "voc2012_100"), "--json"]
    assert main([*command, "--method", "11point"]) == 0
    assert json.loads(capsys.readouterr().out)["AP50"] == pytest.approx(0.607511, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--outside", "clip"], "--outside: expected --results.*data.outside=clip", id="outside"),
        pytest.param(["--iou-type", "segm", "--thresholds", "0.5"], "--iou-type, --thresholds: expected", id="two"),
    ],
)
def test_options_of_result_files_are_refused_for_a_model(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "letters_detection", *options]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_annotations_alone_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--annotations", "truth.json"]) == 2
    assert "--annotations: expected --results beside it, got none" in capsys.readouterr().err


def _files(folder: Path) -> list[str]:
    """A perfect detection, as a result file and as an annotation file."""
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30]}
    image = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
    truth = {
        "images": [image],
        "annotations": [{"id": 1, "area": 900, "iscrowd": 0, **box}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps([{**box, "score": 0.9}]))
    return ["eval", "--results", str(folder / "found.json"), "--annotations", str(folder / "truth.json")]


def _masks(folder: Path) -> list[str]:
    """Masks of the classes 0, 1 and 3; 3 is void."""
    for name in ("truth", "found"):
        (folder / name).mkdir()
    Image.fromarray(np.array([[0, 1], [1, 3]], np.uint8)).save(folder / "truth" / "a.png")
    Image.fromarray(np.array([[0, 0], [1, 1]], np.uint8)).save(folder / "found" / "a.png")
    return ["eval", "--results", str(folder / "found"), "--annotations", str(folder / "truth")]


def test_json_of_result_files_is_json_with_a_page_and_a_folder_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*_files(tmp_path), "--json", "--report", "-o", str(tmp_path / "out")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["AP50"] == pytest.approx(1)
    assert json.loads((tmp_path / "out" / "found_metrics.json").read_text()) == printed
    assert (tmp_path / "out" / "found_report.html").is_file()


def test_result_files_stay_where_the_metrics_go_beside_them(tmp_path: Path) -> None:
    command = _files(tmp_path)
    before = (tmp_path / "found.json").read_bytes()
    assert main([*command, "-o", str(tmp_path)]) == 0
    assert (tmp_path / "found.json").read_bytes() == before
    assert json.loads((tmp_path / "found_metrics.json").read_text())["AP50"] == pytest.approx(1)


def test_masks_of_result_files_with_their_confusion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*_masks(tmp_path), "--ignore", "3", "--classes", "sky,road", "-o", str(tmp_path / "out"), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["mIoU"] == pytest.approx(0.5)
    rows = [line.split(",") for line in (tmp_path / "out" / "found_confusion.csv").read_text().splitlines()]
    assert rows == [["annotated \\ predicted", "sky", "road"], ["sky", "1", "0"], ["road", "1", "1"]]


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        pytest.param(_files, ["--save", "--batch", "2"], "--batch, --save: expected a model, got result", id="model"),
        pytest.param(_files, ["--recipe", "r.yaml"], "--recipe: expected a model", id="recipe"),
        pytest.param(_files, ["--compile"], "--compile: expected a model", id="speed"),
        pytest.param(_files, ["--split", "val"], "split: expected None for an annotation file", id="split"),
        pytest.param(_files, ["--method", "11point"], "method: expected 'area' with the COCO rules", id="method"),
        pytest.param(_files, ["--ignore", "3"], "--ignore: expected segmentation masks as --results", id="masks"),
        pytest.param(_masks, ["--method", "11point"], "--method: expected detections as --results", id="boxes"),
        pytest.param(_masks, ["--report"], "--report: expected detections as --results", id="page"),
    ],
)
def test_options_that_do_not_fit_result_files_are_refused(
    make: Callable[[Path], list[str]],
    options: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*make(tmp_path), *options]) == 2
    assert re.search(said, capsys.readouterr().err)
