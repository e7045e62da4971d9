from __future__ import annotations

import hashlib
from pathlib import Path

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
        ("voc", {"masks", "regions of many objects (crowd), which are written as difficult"}),
        ("yolo", {"masks", "regions of many objects (crowd), which are left out"}),
        ("coco", set()),
    ],
    ids=["voc", "yolo", "coco"],
)
@pytest.mark.parametrize("masks", [True, False], ids=["decoded", "in-the-file"])
def test_what_a_format_cannot_hold_is_said(to: str, lost: set[str], masks: bool, tmp_path: Path) -> None:
    make_coco(tmp_path / "in")
    dataset = open_dataset("coco", tmp_path / "in", "train", masks=masks or to == "coco")
    result = convert({"train": dataset}, to, tmp_path / "out")
    assert set(result.lost) == lost
    assert result.boxes == (2 if to == "yolo" else 3)
    if to == "coco":
        written = open_dataset("coco", tmp_path / "out", "train")
        for index in range(len(dataset)):
            assert torch.equal(target_of(written, index).masks, target_of(dataset, index).masks)
            assert torch.equal(target_of(written, index).crowd, target_of(dataset, index).crowd)


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
