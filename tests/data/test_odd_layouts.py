"""Layouts that people have and no tool documents: recognised with the right boxes, or refused with the next step."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcn.data.auto import find_layout
from dcn.data.catalog import FORMATS, open_dataset
from dcn.data.check import check_dataset
from dcn.data.dataset import Dataset
from dcn.data.splitting import target_of
from tests.data.layouts import CLASSES, HEIGHT, LAYOUTS, WIDTH, Item, _coco, _write, _xml, _yolo, items, write_picture

TRAIN, VAL = items()[:8], items()[8:]


def cvat_yolo(root: Path) -> None:
    """CVAT's YOLO 1.1 with two subsets: lists with paths that begin with a folder which is not there."""
    lists = "".join(f"{name} = data/{name}.txt\n" for name in ("train", "valid"))
    _write(root / "obj.data", f"classes = 3\n{lists}names = data/obj.names\nbackup = backup/\n")
    _write(root / "obj.names", "apple\npear\nfig\n")
    for name, part in (("train", TRAIN), ("valid", VAL)):
        _write(root / f"{name}.txt", "".join(f"data/obj_{name}_data/{item.stem}.jpg\n" for item in part))
        _yolo_files(root / f"obj_{name}_data", root / f"obj_{name}_data", part)


def cvat_folders(root: Path) -> None:
    """The same without its lists."""
    cvat_yolo(root)
    for name in ("obj.data", "train.txt", "valid.txt"):
        (root / name).unlink()


def yolo_lists(root: Path) -> None:
    """``data.yaml`` with lists of images instead of folders."""
    names = "names: {0: apple, 1: pear, 2: fig}"
    _write(root / "data.yaml", f"path: ../datasets/fruit\ntrain: train.txt\nval: lists/val.txt\n{names}\n")
    for name, part in (("train.txt", TRAIN), ("lists/val.txt", VAL)):
        _write(root / name, "".join(f"./images/{item.stem}.jpg\n" for item in part))
    _yolo_files(root / "images", root / "labels", items())


def _yolo_files(images: Path, labels: Path, part: Sequence[Item]) -> None:
    for item in part:
        write_picture(images / f"{item.stem}.jpg", item)
        _write(labels / f"{item.stem}.txt", _yolo(item))


def kaggle(root: Path) -> None:
    """A corner, width and height of each box, and the size of the image."""
    lines = "image_name,label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_width,image_height\n"
    for item in items():
        write_picture(root / "images" / f"{item.stem}.jpg", item)
        for name, x1, y1, x2, y2 in item.boxes:
            lines += f"{item.stem},{name},{x1},{y1},{x2 - x1},{y2 - y1},{WIDTH},{HEIGHT}\n"
    _write(root / "labels.csv", lines)


def tensorflow_csv(root: Path) -> None:
    for split, part in (("train", TRAIN), ("val", VAL)):
        lines = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        for item in part:
            write_picture(root / "images" / split / f"{item.stem}.jpg", item)
            for name, x1, y1, x2, y2 in item.boxes:
                lines += f"{item.stem}.jpg,{WIDTH},{HEIGHT},{name},{x1},{y1},{x2},{y2}\n"
        _write(root / f"{split}_labels.csv", lines)


def by_class(root: Path) -> None:
    """A folder for each class, names with umlauts, endings in capitals."""
    for item in items()[:-1]:
        name = f"Föto {item.stem} (1)"
        write_picture(root / f"Für {item.boxes[0][0]}" / f"{name}.JPG", item)
        _write(root / f"Für {item.boxes[0][0]}" / f"{name}.xml", _xml(item, f"{name}.JPG"))


def pets(root: Path) -> None:
    """XML files in a folder below that of the annotations, and lists that nobody needs."""
    for item in items():
        write_picture(root / "images" / f"{item.stem}.jpg", item)
        _write(root / "annotations" / "xmls" / f"{item.stem}.xml", _xml(item, f"{item.stem}.jpg"))
    _write(root / "annotations" / "trainval.txt", "".join(f"{item.stem} 1 1 1\n" for item in items()))


def other_machine(root: Path) -> None:
    """COCO whose file names are paths of the machine that it was made on."""
    content = json.loads(_coco(items()))
    for image, start in zip(content["images"], ("/home/me/data/images/", "D:\\data\\images\\") * 6, strict=True):
        image["file_name"] = start + image["file_name"]
        write_picture(root / "images" / image["file_name"].replace("\\", "/").rpartition("/")[2], items()[image["id"]])
    _write(root / "result.json", json.dumps(content))


def _item(dataset: Dataset, index: int) -> Item:
    path = dataset.image_path(index)
    assert path is not None
    digits = "".join(sign for sign in path.stem.removesuffix(" (1)") if sign.isdigit())
    return next(item for item in items() if item.seed == int(digits[:2]))


@pytest.mark.parametrize(
    ("make", "format", "is_split"),
    [
        (cvat_yolo, "yolo", True),
        (cvat_folders, "yolo", True),
        (yolo_lists, "yolo", True),
        (kaggle, "csv", False),
        (tensorflow_csv, "csv", True),
        (by_class, "voc_files", False),
        (pets, "voc_files", False),
        (other_machine, "coco", False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_recognised(make: Callable[[Path], None], format: str, is_split: bool, tmp_path: Path) -> None:
    make(tmp_path)
    assert check_dataset(tmp_path).problems == []
    layout = find_layout(FORMATS, tmp_path)
    assert (layout.format, layout.is_split) == (format, is_split)
    seen: dict[str, set[int]] = {}
    for split in ("train", "val") if is_split else ("train", "val", "test"):
        dataset = open_dataset("auto", tmp_path, split)
        seen[split] = {_item(dataset, index).seed for index in range(len(dataset))}
        for index in range(len(dataset)):
            item, target = _item(dataset, index), target_of(dataset, index)
            assert [dataset.classes[label] for label in target.labels.tolist()] == [box[0] for box in item.boxes]
            for box, (_, *expected) in zip(target.boxes.tolist(), item.boxes, strict=True):
                assert box == pytest.approx(expected, abs=0.01)
        assert set(dataset.classes) == set(CLASSES)
    if is_split:
        kept = {item.seed for item in items() if item.boxes or format != "csv"}
        assert seen == {"train": {item.seed for item in TRAIN} & kept, "val": {item.seed for item in VAL} & kept}


def nested(root: Path) -> None:
    LAYOUTS["Roboflow COCO"].make(root / "cells.v1i.coco", items())


def no_names(root: Path) -> None:
    _yolo_files(root / "train" / "images", root / "train" / "labels", items())


def wheat(root: Path) -> None:
    write_picture(root / "train" / "a.jpg", items()[0])
    _write(root / "train.csv", 'image_id,width,height,bbox,source\na,64,48,"[1.0, 2.0, 3.0, 4.0]",usask\n')


def fractions(root: Path) -> None:
    write_picture(root / "images" / "a.jpg", items()[0])
    (root / "masks").mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH), 0.5, np.float32)).save(root / "masks" / "a.tif")


def strange_names(root: Path) -> None:
    write_picture(root / "images" / "photo_7.jpg", items()[0])
    (root / "masks").mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(root / "masks" / "7.png")


def classification(root: Path) -> None:
    for item in items()[:-1]:
        write_picture(root / item.boxes[0][0] / f"{item.stem}.jpg", item)


def photos(root: Path) -> None:
    write_picture(root / "a.jpg", items()[0])


def strangers(root: Path) -> None:
    write_picture(root / "pictures" / "a.jpg", items()[0])
    _write(root / "boxes" / "b.xml", _xml(items()[0], "b.jpg"))


def nothing(root: Path) -> None:
    root.mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (nested, "the folder 'cells.v1i.coco' inside of it looks like coco_folders: give "),
        (no_names, "nothing names the classes: write their names in the order of their numbers, one a line, into "),
        (wheat, "train.csv: expected columns file, x1, y1, x2, y2, class or lines "),
        (
            fractions,
            "its masks cannot be read: {}/masks/a.tif: expected one channel of class indices (grey or palette), got an "
            "image of mode F; write the number of its class in place of each colour",
        ),
        (
            strange_names,
            "masks has the name of an image in {}/images (photo_7.jpg, 7.png); a mask has the name of its image",
        ),
        (
            classification,
            "it holds 11 images in folders (apple, fig) and no annotation; names of folders say what is in",
        ),
        (photos, "it holds 1 images and no annotation (XML, JSON, TXT, CSV or masks) of a form that is known"),
        (
            strangers,
            "boxes/b.xml is an annotation of Pascal VOC, but no image of its name lies beside it or in images/",
        ),
        (nothing, "it holds no image"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_refused_with_the_next_step(make: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    make(tmp_path)
    (problem,) = check_dataset(tmp_path).problems
    assert sentence.replace("{}", str(tmp_path)) in str(problem)
    assert str(problem).count(str(tmp_path)) <= 3  # the folder, and one or two files or folders in it
    assert ("Expected ImageSets" in str(problem)) == ("it holds" in sentence)  # all layouts, where it is like none
    with pytest.raises(ValueError, match="cannot tell the format"):
        open_dataset("auto", tmp_path, "train")


def test_a_list_that_names_a_missing_image(tmp_path: Path) -> None:
    yolo_lists(tmp_path)
    with (tmp_path / "train.txt").open("a") as file:
        file.write("./images/gone.jpg\n")
    (problem,) = check_dataset(tmp_path).problems
    assert str(problem) == f"{tmp_path / 'train.txt'}: line 9: the image './images/gone.jpg' does not exist"
