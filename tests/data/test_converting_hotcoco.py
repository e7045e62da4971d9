"""The converters against those of hotcoco: both read what the other has written, and the boxes are counted.

hotcoco's are no part of the package's way: they write no images and no splits, drop the folders of names, turn
difficult objects into crowds, and write a VOC box thinner than a pixel with its edges exchanged (the last test).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from dcn.cli.data_tools import open_splits
from dcn.cli.main import main
from dcn.data.converting import convert
from dcn.data.dataset import Dataset
from dcn.data.splitting import target_of
from dcn.formats.problems import refuse
from dcn.formats.voc import read_record
from tests.data.layouts import LAYOUTS, items

hotcoco = pytest.importorskip("hotcoco")


def _theirs(data: Any) -> dict[str, tuple[list[str], Tensor]]:
    """Classes and boxes of hotcoco's data by the stem of the image."""
    names = {entry["id"]: entry["name"] for entry in data["categories"]}
    content = {}
    for image in data["images"]:
        own = [entry for entry in data["annotations"] if entry["image_id"] == image["id"]]
        boxes = torch.tensor([entry["bbox"] for entry in own], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        content[Path(image["file_name"]).stem] = ([names[entry["category_id"]] for entry in own], boxes)
    return content


def _ours(dataset: Dataset) -> dict[str, tuple[list[str], Tensor]]:
    content = {}
    for index in range(len(dataset)):
        path, target = dataset.image_path(index), target_of(dataset, index)
        assert path is not None
        content[path.stem] = ([dataset.classes[label] for label in target.labels.tolist()], target.boxes.double())
    return content


def _count(one: dict[str, tuple[list[str], Tensor]], other: dict[str, tuple[list[str], Tensor]], most: float) -> int:
    """How many boxes were compared; none differs by more than ``most`` pixels at an edge."""
    assert one.keys() == other.keys()
    for key, (names, boxes) in one.items():
        assert other[key][0] == names
        torch.testing.assert_close(other[key][1], boxes, rtol=0, atol=most)
    return sum(len(names) for names, _ in one.values())


def _read(folder: Path, to: str, split: str) -> Any:
    """What hotcoco reads of a converted folder."""
    if to == "voc":
        return hotcoco.COCO.from_voc(str(folder)).dataset
    if to == "coco":
        return hotcoco.COCO(str(folder / "annotations" / f"instances_{split}.json")).dataset
    labels = folder / "labels" / split
    (labels / "data.yaml").write_bytes((folder / "data.yaml").read_bytes())
    return hotcoco.COCO.from_yolo(str(labels), images_dir=str(folder / "images" / split)).dataset


@pytest.mark.parametrize("to", ["voc", "coco", "yolo"])
def test_hotcoco_reads_what_is_written_here(to: str, tmp_path: Path) -> None:
    LAYOUTS["LabelImg"].make(tmp_path / "in", items())
    assert main(["data", "convert", str(tmp_path / "in"), "--to", to, "--output", str(tmp_path / "out")]) == 0
    (source,) = open_splits(tmp_path / "in").values()
    written = _theirs(_read(tmp_path / "out", to, "train"))
    assert _count(_ours(source), written, 0.01) == sum(len(item.boxes) for item in items())


@pytest.mark.parametrize("write", ["to_voc", "to_yolo"])
def test_what_hotcoco_writes_is_read_here(write: str, tmp_path: Path) -> None:
    LAYOUTS["one JSON"].make(tmp_path, items())
    (file,) = tmp_path.glob("*.json")
    source = _theirs(json.loads(file.read_text()))
    written = hotcoco.COCO(str(file))
    (tmp_path / "images").mkdir()
    for image in tmp_path.glob("*.jpg"):
        image.rename(tmp_path / "images" / image.name)
    if write == "to_voc":
        written.to_voc(str(tmp_path))
    else:
        written.to_yolo(str(tmp_path / "labels"))
        (tmp_path / "labels" / "data.yaml").rename(tmp_path / "data.yaml")
    file.unlink()
    (read,) = open_splits(tmp_path).values()
    assert _count(source, _ours(read), 0.01) == sum(len(item.boxes) for item in items())


@pytest.mark.parametrize(("name", "boxes"), [("bccd", 4888), ("cards", 670), ("coco128", 712)])
def test_real_boxes(name: str, boxes: int, tmp_path: Path, shared: Path) -> None:
    """VOC as hotcoco reads it, and COCO as it writes VOC, against the readers of the package."""
    if name == "coco128":
        path = shared / "data" / name / "annotations" / "instances_val2017_100.json"
        hotcoco.COCO(str(path)).to_voc(str(tmp_path))
        source = _theirs(json.loads(path.read_text()))
        folder = tmp_path / "Annotations"
    else:
        folder = shared / "data" / name / "Annotations"
        source = _theirs(hotcoco.COCO.from_voc(str(shared / "data" / name)).dataset)
    read = {}
    for file in folder.glob("*.xml"):
        record = read_record(file.stem, None, file, refuse)
        assert record is not None
        corners = torch.tensor([item.box for item in record.objects], dtype=torch.float64).reshape(-1, 4)
        read[file.stem] = ([item.name for item in record.objects], corners)
    assert _count(source, read, 0.01) == boxes


def _edges(folder: Path) -> tuple[bool, bool]:
    """Whether left comes before right and top before bottom in the only VOC file below a folder."""
    (file,) = folder.rglob("*.xml")
    box = ElementTree.parse(file).getroot().find("object/bndbox")
    assert box is not None
    left, top, right, bottom = (int(box.findtext(name) or 0) for name in ("xmin", "ymin", "xmax", "ymax"))
    return left <= right, top <= bottom


def test_a_thin_box_keeps_the_order_of_its_edges_here_alone(tmp_path: Path) -> None:
    LAYOUTS["one JSON"].make(tmp_path / "in", items(2)[:1])
    (file,) = (tmp_path / "in").glob("*.json")
    content = json.loads(file.read_text())
    content["annotations"] = [{**content["annotations"][0], "bbox": [0.4, 0.6, 20.2, 0.3]}]
    file.write_text(json.dumps(content))
    hotcoco.COCO(str(file)).to_voc(str(tmp_path / "theirs"))
    convert(open_splits(tmp_path / "in"), "voc", tmp_path / "ours")
    assert _edges(tmp_path / "theirs") == (True, False)
    assert _edges(tmp_path / "ours") == (True, True)
