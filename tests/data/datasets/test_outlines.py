"""Segmentation masks from the outlines of objects: LabelMe, COCO, YOLO polygons."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import dcn
from dcn.cli.main import main
from dcn.data.catalog import open_dataset, options_of
from dcn.data.check import check_dataset
from dcn.data.dataset import Dataset
from dcn.data.datasets.outlines import as_segmentation
from dcn.data.splitting import target_of
from dcn.formats.labelme import read_split
from dcn.formats.problems import refuse
from tests.data.layouts import CLASSES, HEIGHT, LAYOUTS, WIDTH, Item, items, make_index_masks, write_picture

WITH_OUTLINES = ["LabelMe", "LabelMe folders", "COCO", "one JSON", "Roboflow COCO", "CVAT COCO", "Ultralytics polygons"]


def _expected(item: Item, classes: tuple[str, ...]) -> Tensor:
    """The boxes painted in the order of falling area."""
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    for name, x1, y1, x2, y2 in sorted(item.boxes, key=lambda box: -(box[3] - box[1]) * (box[4] - box[2])):
        labels[y1:y2, x1:x2] = classes.index(name)
    return labels


def _with_polygons(root: Path) -> None:
    """COCO files whose boxes have outlines."""
    for path in root.rglob("*.json"):
        content = json.loads(path.read_text())
        for entry in content.get("annotations", []):
            x, y, w, h = entry["bbox"]
            entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", WITH_OUTLINES)
def test_outlines_become_masks(name: str, tmp_path: Path) -> None:
    LAYOUTS[name].make(tmp_path, items())
    if "LabelMe" not in name:
        _with_polygons(tmp_path)
    dataset = open_dataset("auto", tmp_path, "train", semantic=True)
    assert dataset.classes == (
        "background",
        *(CLASSES if "COCO" in name or name == "one JSON" else dataset.classes[1:]),
    )
    assert set(dataset.classes[1:]) == set(CLASSES)
    by_seed = {item.seed: item for item in items()}
    for index in range(len(dataset)):
        path = dataset.image_path(index)
        assert path is not None
        item = by_seed[int(path.stem.replace("-", " ").removeprefix("photo ")[:2])]
        labels = target_of(dataset, index).labels
        assert torch.equal(labels, dataset[index].target.labels)
        assert torch.equal(labels, _expected(item, dataset.classes))


def test_masks_that_are_there_stay(tmp_path: Path) -> None:
    make_index_masks(tmp_path, beside=False)
    dataset = open_dataset("masks", tmp_path, "all")
    assert as_segmentation(dataset) is dataset
    assert "semantic" in options_of("auto")
    assert "semantic" not in options_of("masks")


def test_boxes_alone_make_no_masks(tmp_path: Path) -> None:
    LAYOUTS["CSV"].make(tmp_path, items())
    with pytest.raises(ValueError, match=r"image images/photo \d\d: expected an outline for every object"):
        _ = open_dataset("csv", tmp_path, "all", semantic=True)[0]


def _shape(label: str, points: list[list[Any]], kind: str = "polygon") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind}


def _masked(label: str, points: list[list[Any]], *rows: str) -> dict[str, Any]:
    """A mask of rows such as "0110", as LabelMe stores it: a PNG of zeros and ones."""
    file = io.BytesIO()
    Image.fromarray(np.array([[int(v) for v in row] for row in rows], np.uint8)).save(file, "PNG")
    return _shape(label, points, "mask") | {"mask": base64.encodebytes(file.getvalue()).decode()}


def _write(root: Path, *shapes: object, **changes: object) -> Dataset | None:
    write_picture(root / "a b ü.JPG", items()[0])
    content = {"version": "5.0.1", "shapes": list(shapes), "imagePath": "a b ü.JPG", "imageData": None, **changes}
    (root / "a b ü.json").write_text(json.dumps(content), encoding="utf-8")
    return None


def test_labels_with_a_meaning_and_overlaps(tmp_path: Path) -> None:
    _write(
        tmp_path,
        _shape("small", [[10, 10], [20, 10], [20, 20], [10, 20]]),
        _shape("large", [[5, 5], [40, 5], [40, 40], [5, 40]]),
        _shape("__ignore__", [[0, 0], [64, 0], [64, 3], [0, 3]]),
        _shape("_background_", [[0, 0], [64, 0], [64, 48], [0, 48]]),
    )
    dataset = open_dataset("labelme", tmp_path, "all", semantic=True)
    labels = target_of(dataset, 0).labels
    assert dataset.classes == ("background", "large", "small")
    assert (labels == 2).sum() == 100
    assert (labels == 1).sum() == 35 * 35 - 100
    assert (labels == 255).sum() == 3 * 64
    assert labels[45, 50] == 0


def test_a_circle_covers_its_area(tmp_path: Path) -> None:
    _write(tmp_path, _shape("ball", [[30, 24], [40, 24]], "circle"))
    dataset = open_dataset("labelme", tmp_path, "all", masks=True)
    target = target_of(dataset, 0)
    assert target.boxes.tolist() == [[20, 14, 40, 34]]
    assert int(target.masks.sum()) == pytest.approx(3.1416 * 100, rel=0.04)


def test_masks_are_read_with_both_corners(tmp_path: Path) -> None:
    """Of a hole, of parts, beyond the edge of the image, and beside polygons."""
    _write(
        tmp_path,
        _masked("ring", [[10.0, 20.0], [13.0, 22.0]], "1110", "1010", "1110"),
        _masked("edge", [[62, 46], [65, 49]], "1111", "1001", "1111", "1111"),
        _shape("box", [[0, 0], [5, 5]], "rectangle"),
    )
    target = target_of(open_dataset("labelme", tmp_path, "all", masks=True), 0)
    assert target.boxes.tolist() == [[10, 20, 13, 23], [62, 46, 64, 48], [0, 0, 5, 5]]
    expected = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    expected[0, 20:23, 10:13] = True
    expected[0, 21, 11] = False
    expected[1, 46:48, 62:64] = torch.tensor([[True, True], [True, False]])
    expected[2, :5, :5] = True
    assert torch.equal(target.masks, expected)
    assert check_dataset(tmp_path, "labelme").problems == []
    boxes = target_of(open_dataset("labelme", tmp_path, "all", masks=False), 0)
    assert torch.equal(boxes.boxes, target.boxes)
    semantic = open_dataset("labelme", tmp_path, "all", semantic=True)
    assert (target_of(semantic, 0).labels == semantic.classes.index("ring")).sum() == 8


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (_shape("a", [[1, 1], [5, 5]]), "expected 3 or more points of a polygon, got 2"),
        (_shape("a", [[1, 1], [5, 5]], "line"), "expected polygon, rectangle, circle or mask, got 'line'"),
        (_masked("a", [[1, 1]], "11"), "expected 2 points of a mask, got 1"),
        (_masked("a", [[1, 1], [2, 2]], "11"), "'mask': expected 2x2 pixels, as between its two points, got 2x1"),
        (_masked("a", [[1, 1], [2, 1]], "00"), "'mask': expected a pixel or more inside the image of 64x48 pixels"),
        (_masked("a", [[70, 1], [71, 1]], "11"), "'mask': expected a pixel or more inside the image of 64x48 pixels"),
        (_masked("a", [[-1000000, 1], [1000000, 1]], "11"), "'mask': expected 2000001x1 pixels"),
        (_shape("a", [[1, 1], [2, 1]], "mask"), "'mask': expected a PNG in base64, got nothing"),
        (_shape("a", [[1, 1], [2, 1]], "mask") | {"mask": "é"}, "'mask': expected a PNG in base64, got 'é'"),
        (_shape("a", [[1, 1], [2, 1]], "mask") | {"mask": "aGVsbG8="}, "'mask': the image cannot be decoded"),
        (_shape("a", [[1, 1]], "circle"), "expected 2 points of a circle, got 1"),
        (_shape("a", [[1, "x"], [5, 5], [7, 8]]), "'points': expected a finite number, got 'x'"),
        (_shape("a", [[1, 1], [5], [7, 8]]), r"'points': expected a list of \[x, y\]"),
        (_shape("a", [[70, 1], [90, 1], [90, 8]]), "expected a shape inside the image of 64x48 pixels"),
        (_shape("", [[1, 1], [5, 1], [7, 8]]), "'name': expected a text"),
        ("shape", "expected a shape, got 'shape'"),
    ],
    ids=[
        *("polygon", "line", "mask", "mask-size", "mask-empty", "mask-outside", "mask-wide", "mask-none", "mask-text"),
        *("mask-bytes", "circle", "text", "pair", "outside", "label", "kind"),
    ],
)
def test_a_shape_that_is_none_is_a_problem(shape: object, message: str, tmp_path: Path) -> None:
    _write(tmp_path, shape, _shape("b", [[1, 1], [50, 1], [50, 40]]))
    with pytest.raises(ValueError, match=rf"a b ü.json.*shape 0.*{message}"):
        read_split(tmp_path, "all", refuse)
    (problem,) = check_dataset(tmp_path, "labelme").problems
    assert problem.entry.startswith("shape 0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imageHeight": 64, "imageWidth": 48}, "width and height are exchanged"),
        ({"imageHeight": 10, "imageWidth": 10}, "10x10"),
        ({"imageHeight": "x"}, "'imageHeight': expected a number of pixels"),
    ],
    ids=["turned", "other", "text"],
)
def test_a_stated_size_is_compared(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    _write(tmp_path, _shape("b", [[1, 1], [5, 1], [5, 5]]), **changes)
    problems = [str(problem) for problem in check_dataset(tmp_path).problems]
    assert len(problems) == 1
    assert message in problems[0]


def test_a_renamed_pair_is_found_and_a_missing_image_named(tmp_path: Path) -> None:
    _write(tmp_path, _shape("b", [[1, 1], [5, 1], [5, 5]]), imagePath="C:\\old\\name.jpg")
    assert len(open_dataset("labelme", tmp_path, "all")) == 1
    write_picture(tmp_path / "c.jpg", items()[1])
    (tmp_path / "d.json").write_text(json.dumps({"shapes": [], "imagePath": "d.jpg"}))
    (problem,) = check_dataset(tmp_path).problems
    assert "the image 'd.jpg' does not exist" in str(problem)


@pytest.mark.parametrize("name", ["LabelMe", "one JSON"])
def test_a_deeplab_trains_on_outlines(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    LAYOUTS[name].make(tmp_path / "data", items())
    if name != "LabelMe":
        _with_polygons(tmp_path / "data")
    changes = ["model.options={width: 0.125, head_channels: 8}", "schedule.steps=2", "schedule.milestones="]
    changes += ["transforms.short=48", "transforms.long=64", "transforms.crop=", "eval.pictures=1", "eval.every=2"]
    command = ["train", "camvid_atrous2", f"data.root={tmp_path / 'data'}", "data.format=auto", *changes]
    command += ["model.backbone_weights=random", "--output", str(tmp_path), "--name", "a", "--device", "cpu"]
    assert main(command) == 0
    run = dcn.Run(tmp_path / "camvid_atrous2" / "a")
    assert set(run.load(device="cpu").classes) == {"background", *CLASSES}
    assert json.loads((run.folder / "splits.json").read_text())["seed"] == 0
    assert "mIoU" in run.metrics
    assert main(["eval", str(run.folder), "--split", "val", "--device", "cpu"]) == 0
    for verb in (["check"], ["stats"], ["show", "--output", str(tmp_path / "sheet.png")]):
        assert main(["data", verb[0], str(tmp_path / "data"), *verb[1:]]) == 0
    capsys.readouterr()
