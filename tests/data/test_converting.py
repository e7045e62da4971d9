from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dcn.cli.data_tools import open_splits
from dcn.cli.main import main
from dcn.data import converting
from dcn.data.catalog import open_dataset
from dcn.data.check import check_dataset
from dcn.data.converting import convert
from dcn.data.dataset import Dataset
from dcn.data.splitting import target_of
from tests.data.layouts import LAYOUTS, items
from tests.data.made_files import coco_data, make_coco, make_voc, voc_object, voc_xml
from tests.data.made_masks import make_camvid

SOURCES = {"voc": "VOC devkit", "coco": "COCO", "yolo": "Roboflow YOLO", "csv": "CSV", "voc_files": "LabelImg"}


def _content(dataset: Dataset) -> dict[str, tuple[list[str], torch.Tensor]]:
    """Classes and boxes by the content of the image."""
    content = {}
    for index in range(len(dataset)):
        path, target = dataset.image_path(index), target_of(dataset, index)
        assert path is not None
        names = [dataset.classes[label] for label in target.labels.tolist()]
        content[hashlib.sha256(path.read_bytes()).hexdigest()] = (names, target.boxes)
    return content


@pytest.mark.parametrize("to", ["voc", "coco", "yolo"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_all_directions(source: str, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS[source].make(tmp_path / "in", items())
    out = tmp_path / "out"
    assert main(["data", "convert", str(tmp_path / "in"), "--to", to, "--output", str(out)]) == 0
    assert "0 by more than 0.5" in capsys.readouterr().out
    findings = check_dataset(out)
    assert (findings.format, findings.problems) == (to, [])
    before, after = open_splits(tmp_path / "in"), open_splits(out)
    assert before.keys() == after.keys()
    for split, dataset in before.items():
        expected, got = _content(dataset), _content(after[split])
        assert expected.keys() == got.keys()
        for key, (names, boxes) in expected.items():
            assert got[key][0] == names
            torch.testing.assert_close(got[key][1], boxes, rtol=0, atol=0.5)


def test_voc_rounds_to_the_nearest_pixel(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"] = [
        {"id": 1, "image_id": 5, "category_id": 7, "bbox": [10.4, 5.6, 20.3, 10.2]},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0.45, 3.0, 0.02, 8.0]},
    ]
    make_coco(tmp_path / "in", content)
    dataset = open_dataset("coco", tmp_path / "in", "train")
    result = convert({"train": dataset}, "voc", tmp_path / "out")
    assert (result.boxes, result.moved, result.far) == (2, 2, 1)  # the second is thinner than a pixel
    assert result.largest == pytest.approx(0.53, abs=1e-5)
    written = open_dataset("voc", tmp_path / "out", "train", classes="auto", degenerate="keep")
    assert target_of(written, 0).boxes.tolist()[0] == [10.0, 6.0, 31.0, 16.0]


@pytest.mark.parametrize(
    ("to", "lost"),
    [
        ("voc", ["regions of many objects (crowd), which are written as difficult (1 object)", "masks (3 objects)"]),
        ("yolo", ["regions of many objects (crowd), which are left out (1 object)"]),
        ("coco", []),
    ],
    ids=["voc", "yolo", "coco"],
)
@pytest.mark.parametrize("masks", [True, False], ids=["decoded", "in-the-file"])
def test_what_a_format_cannot_hold_is_said(to: str, lost: list[str], masks: bool, tmp_path: Path) -> None:
    make_coco(tmp_path / "in")
    dataset = open_dataset("coco", tmp_path / "in", "train", masks=masks or to == "coco")
    result = convert({"train": dataset}, to, tmp_path / "out")
    assert list(result.lost) == lost
    assert (result.boxes, result.polygons) == ((2, True) if to == "yolo" else (3, False))
    if to == "coco":
        written = open_dataset("coco", tmp_path / "out", "train")
        for index in range(len(dataset)):
            assert torch.equal(target_of(written, index).masks, target_of(dataset, index).masks)
            assert torch.equal(target_of(written, index).crowd, target_of(dataset, index).crowd)


def _row(number: int, box: list[float], segmentation: object) -> dict[str, object]:
    return {"id": number, "image_id": 9, "category_id": 3, "bbox": box, "segmentation": segmentation}


SQUARE = [2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]
OTHER = [20.0, 10.0, 32.0, 10.0, 32.0, 22.0, 20.0, 22.0]
SLANTED = [30.3, 5.7, 55.1, 8.9, 41.13, 33.33]
RUNS = {"size": [40, 60], "counts": [0, 800, 1600]}


def _with_polygons(root: Path, *rows: dict[str, object]) -> Dataset:
    """COCO data: a polygon of three corners, and what else is asked for."""
    content = coco_data()
    content["annotations"] = [_row(1, [30.3, 5.7, 24.8, 27.63], [SLANTED]), *rows]
    make_coco(root, content)
    return open_dataset("coco", root, "train", masks=False)


def _polygons(root: Path) -> list[list[float]]:
    """All polygons of a folder in YOLO's form, by its reader; each line has more words than that of a box."""
    lines = [line for file in sorted(root.glob("labels/train/*.txt")) for line in file.read_text().splitlines()]
    assert all(len(line.split()) >= 7 for line in lines)
    assert all(0 <= float(word) <= 1 for line in lines for word in line.split()[1:])
    written: Any = open_dataset("yolo", root, "train")
    parts = [item.segmentation for record in written.records for item in record.objects]
    assert all(len(part) == 1 for part in parts)
    return [part[0] for part in parts]


@pytest.mark.parametrize(
    ("row", "polygon", "lost"),
    [
        (_row(2, [2, 2, 10, 10], [SQUARE]), SQUARE, None),
        (_row(2, [2, 2, 10, 10], [[], SQUARE]), SQUARE, None),
        (
            _row(2, [2, 2, 30, 20], [SQUARE, OTHER]),
            [2, 2, 12, 2, 12, 12, 20, 10, 32, 10, 32, 22, 20, 22, 20, 10, 12, 12, 2, 12],
            "several polygons of one object, which are joined",
        ),
        (
            _row(2, [0, 0, 20, 40], RUNS),
            [0, 0, 20, 0, 20, 40, 0, 40],
            "masks as run lengths, whose boxes are written as rectangles",
        ),
        (
            _row(2, [5, 6, 10, 9], []),
            [5, 6, 15, 6, 15, 15, 5, 15],
            "boxes beside polygons, which are written as rectangles",
        ),
        (
            _row(2, [50, 30, 10, 10], [[50, 30, 60.9, 30, 60.9, 40, 50, 40]]),
            [50, 30, 60, 30, 60, 40, 50, 40],
            "parts of polygons outside of the image or without an area, which are left out",
        ),
        (
            _row(2, [5, 6, 10, 9], [[5, 6, 15, 6, 9, 6]]),
            [5, 6, 15, 6, 15, 15, 5, 15],
            "polygons without an area in the image, whose boxes are written as rectangles",
        ),
        (
            _row(2, [2, 2, 10, 12], [SQUARE]),
            SQUARE,
            "boxes other than the extent of their polygon, which takes their place",
        ),
    ],
    ids=["one", "an empty part", "two", "run lengths", "box", "outside", "a line", "other box"],
)
def test_polygons_become_polygons_of_yolo(
    row: dict[str, object], polygon: list[float], lost: str | None, tmp_path: Path
) -> None:
    result = convert({"train": _with_polygons(tmp_path / "in", row)}, "yolo", tmp_path / "out")
    assert [text[: len(lost or "")] for text in result.lost] == ([] if lost is None else [lost])
    assert (result.boxes, result.polygons, result.far) == (2, True, 0)
    got = _polygons(tmp_path / "out")
    for points, expected in zip(got, [SLANTED, polygon], strict=True):
        assert points == pytest.approx(expected, abs=1e-6)
    assert check_dataset(tmp_path / "out").problems == []
    # The way back and forth again changes nothing.
    again = convert({"train": open_dataset("yolo", tmp_path / "out", "train")}, "yolo", tmp_path / "again")
    assert (again.lost, again.far) == ((), 0)
    assert list(map(len, _polygons(tmp_path / "again"))) == list(map(len, got))


@pytest.mark.parametrize("source", ["Ultralytics polygons", "LabelMe"])
def test_polygons_of_other_tools(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS[source].make(tmp_path / "in", items())
    command = ["data", "convert", str(tmp_path / "in"), "--to", "yolo", "--output"]
    assert main([*command, str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"{sum(len(item.boxes) for item in items())} polygons; 0 polygons moved" in said
    assert "not in the format" not in said
    before, after = open_splits(tmp_path / "in"), open_splits(tmp_path / "out")
    for split, dataset in before.items():
        for index in range(len(dataset)):
            assert torch.equal(target_of(after[split], index).masks, target_of(dataset, index).masks)


def test_boxes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _with_polygons(tmp_path / "in", _row(2, [0, 0, 20, 40], RUNS), _row(3, [5, 6, 10, 9], []))
    for to in ("yolo", "coco", "voc"):
        out = tmp_path / to
        assert main(["data", "convert", str(tmp_path / "in"), "--to", to, "-o", str(out), "--boxes"]) == 0
        assert "not in the format" not in capsys.readouterr().out
        assert all(target.masks is None for target in map(target_of, [*open_splits(out).values()], [0]))
    lines = (tmp_path / "yolo" / "labels" / "train" / "9.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [5, 5, 5]


def test_run_lengths_alone_are_boxes_of_yolo(tmp_path: Path) -> None:
    content = coco_data()
    content["annotations"] = [_row(2, [0, 0, 20, 40], RUNS)]
    make_coco(tmp_path / "in", content)
    result = convert({"train": open_dataset("coco", tmp_path / "in", "train")}, "yolo", tmp_path / "out")
    assert result.lost == ("masks as run lengths, whose boxes are written (1 object)",)
    assert (tmp_path / "out" / "labels" / "train" / "9.txt").read_text() == (
        "0 0.16666667 0.50000000 0.33333333 1.00000000\n"
    )


def test_a_malformed_polygon_is_refused(tmp_path: Path) -> None:
    dataset = _with_polygons(tmp_path / "in", _row(2, [2, 2, 10, 10], [[2, 2, 12, 2]]))
    with pytest.raises(
        ValueError, match=r"9\.png: object 1: 'segmentation': expected polygons of three or more points"
    ):
        convert({"train": dataset}, "yolo", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_difficult_objects(tmp_path: Path) -> None:
    make_voc(tmp_path / "in", {"a": voc_xml(voc_object(), voc_object("cat", (1, 1, 9, 9), "<difficult>1</difficult>"))})
    dataset = open_dataset("voc", tmp_path / "in", "train")
    convert({"train": dataset}, "voc", tmp_path / "voc")
    assert target_of(open_dataset("voc", tmp_path / "voc", "train"), 0).difficult.tolist() == [False, True]
    assert '"difficult": 1' in convert_to_coco(dataset, tmp_path / "coco").read_text()
    assert "the flag difficult" in convert({"train": dataset}, "yolo", tmp_path / "yolo").lost[0]


def convert_to_coco(dataset: Dataset, folder: Path) -> Path:
    convert({"train": dataset}, "coco", folder)
    return folder / "annotations" / "instances_train.json"


def test_nothing_is_replaced_and_nothing_left_behind(tmp_path: Path) -> None:
    LAYOUTS["LabelImg"].make(tmp_path / "in", items())
    foreign = tmp_path / "out" / "JPEGImages" / "photo 05.JPG"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with pytest.raises(ValueError, match=r"photo 05\.JPG: exists already and is not replaced"):
        convert(open_splits(tmp_path / "in"), "voc", tmp_path / "out")
    assert foreign.read_text() == "mine"
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [foreign]


def _renamed(root: Path, name: str) -> Dataset:
    """COCO data, one image of which ends in another way."""
    content = coco_data()
    content["images"][0]["file_name"] = name
    make_coco(root, content)
    Image.open(root / "train" / "5.png").save(root / "train" / name, format="GIF")
    return open_dataset("coco", root, "train", masks=False)


@pytest.mark.parametrize("to", ["voc", "coco", "yolo"])
def test_every_ending_that_is_written_is_read(to: str, tmp_path: Path) -> None:
    conversion = convert({"train": _renamed(tmp_path / "in", "5.gif")}, to, tmp_path / "out")
    assert (conversion.far, conversion.images) == (0, {"train": 3})


@pytest.mark.parametrize("to", ["voc", "coco", "yolo"])
def test_an_ending_that_no_reader_looks_for(to: str, tmp_path: Path) -> None:
    dataset = _renamed(tmp_path / "in", "5.img")
    with pytest.raises(ValueError, match=r"5\.img: expected an image that ends in one of .*; rename or convert it"):
        convert({"train": dataset}, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_comparison_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> list[float]:
        raise ValueError("what was written cannot be read")

    monkeypatch.setattr(converting, "_differences", fail)
    with pytest.raises(ValueError, match="cannot be read"):
        convert({"train": _renamed(tmp_path / "in", "5.gif")}, "voc", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_equal_names_in_different_folders(tmp_path: Path) -> None:
    for folder, item in zip(("a", "b"), items(2), strict=True):
        LAYOUTS["LabelImg"].make(tmp_path / "in" / folder, [item])
        for path in (tmp_path / "in" / folder).iterdir():
            path.rename(path.with_stem("same"))
    datasets = {name: open_dataset("voc_files", tmp_path / "in", name, classes=("apple", "pear")) for name in "ab"}
    assert convert(datasets, "coco", tmp_path / "out").far == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*/*.JPG")) == ["same.JPG", "same_2.JPG"]


def test_wrong_input(tmp_path: Path) -> None:
    make_camvid(tmp_path / "m")
    masks = open_dataset("camvid", tmp_path / "m", "train")
    with pytest.raises(ValueError, match="expected boxes, got segmentation masks in "):
        convert({"train": masks}, "voc", tmp_path / "out")
    with pytest.raises(ValueError, match="expected one of voc, coco, yolo, got 'kitti'"):
        convert({"train": masks}, "kitti", tmp_path / "out")
    with pytest.raises(ValueError, match="expected images in files"):
        convert({"train": open_dataset("synthetic", None, "train", length=1)}, "voc", tmp_path / "out")
