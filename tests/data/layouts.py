"""The same images and boxes as the usual tools write them, each with its peculiarities; the numbers are counted here.

``python -m tests.data.layouts FOLDER`` writes all of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
CLASSES = ("apple", "pear", "fig")
Box = tuple[str, int, int, int, int]


@dataclass(frozen=True)
class Item:
    """One image: its name and its boxes ``(class, x1, y1, x2, y2)`` in continuous edges."""

    stem: str
    boxes: tuple[Box, ...]

    @property
    def seed(self) -> int:
        return int(self.stem.removeprefix("photo "))


def items(count: int = 12) -> list[Item]:
    """Images with one to three boxes; figs are rare; the last image has none."""
    made = []
    for number in range(count):
        random = np.random.default_rng(number)
        boxes: list[Box] = []
        for k in range(0 if number == count - 1 else 1 + number % 3):
            x1, y1 = int(random.integers(0, 40)), int(random.integers(0, 24))
            x2, y2 = x1 + int(random.integers(3, 24)), y1 + int(random.integers(3, 24))
            boxes.append((CLASSES[2] if number % 4 == 3 else CLASSES[k % 2], x1, y1, x2, y2))
        made.append(Item(f"photo {number:02d}", tuple(boxes)))
    return made


def write_picture(path: Path, item: Item) -> None:
    """Noise of a seed of its own: no two images have the same content."""
    pixels = np.random.default_rng(1000 + item.seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def _xml(item: Item, file_name: str, extra: str = "", fraction: str = "") -> str:
    objects = ""
    for name, x1, y1, x2, y2 in item.boxes:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True)
        box = "".join(f"<{tag}>{value}{fraction}</{tag}>" for tag, value in corners)
        objects += f"<object><name>{name}</name><pose>Unspecified</pose>{extra}<bndbox>{box}</bndbox></object>"
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><folder>x</folder><filename>{file_name}</filename>{size}{objects}</annotation>"


def _parts(all_items: Sequence[Item], *names: str) -> dict[str, list[Item]]:
    """The images divided by turns: two of four to the first name."""
    turns = (names[0], *names) if len(names) > 1 else names
    parts: dict[str, list[Item]] = {name: [] for name in names}
    for number, item in enumerate(all_items):
        parts[turns[number % len(turns)]].append(item)
    return parts


def make_devkit(root: Path, all_items: Sequence[Item]) -> None:
    folder = root / "VOCdevkit" / "VOC2012"
    for split, part in _parts(all_items, "train", "val").items():
        for item in part:
            write_picture(folder / "JPEGImages" / f"{item.stem}.jpg", item)
            _write(folder / "Annotations" / f"{item.stem}.xml", _xml(item, f"{item.stem}.jpg"))
        _write(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{item.stem}\n" for item in part))
        _write(folder / "ImageSets" / "Main" / f"fig_{split}.txt", "".join(f"{item.stem} -1\n" for item in part))
    _write(folder / "ImageSets" / "Main" / "trainval.txt", "".join(f"{item.stem}\n" for item in all_items))


def make_labelimg(root: Path, all_items: Sequence[Item]) -> None:
    for item in all_items:
        write_picture(root / f"{item.stem}.JPG", item)
        path = f"<path>C:\\Users\\me\\{item.stem}.JPG</path><segmented>0</segmented>"
        text = _xml(item, f"{item.stem}.JPG", "<truncated>0</truncated><difficult>0</difficult>")
        text = text.replace("<annotation>", "<annotation verified='yes'>").replace("<size>", f"{path}<size>")
        _write(root / f"{item.stem}.xml", "\ufeff" + text)


def make_folders(root: Path, all_items: Sequence[Item]) -> None:
    for item in all_items:
        write_picture(root / "images" / f"{item.stem}.png", item)
        _write(root / "annotations" / f"{item.stem}.xml", _xml(item, f"{item.stem}.png"))


def make_roboflow_voc(root: Path, all_items: Sequence[Item]) -> None:
    for split, part in _parts(all_items, "train", "valid", "test").items():
        for item in part:
            stem = f"{item.stem.replace(' ', '-')}_jpg.rf.{item.seed:032x}"
            write_picture(root / split / f"{stem}.jpg", item)
            _write(root / split / f"{stem}.xml", _xml(item, f"{stem}.jpg", "<occluded>0</occluded>"))
    _write(root / "README.roboflow.txt", "made with care")


def make_cvat_voc(root: Path, all_items: Sequence[Item]) -> None:
    for item in all_items:
        write_picture(root / "JPEGImages" / f"{item.stem}.jpg", item)
        extra = "<occluded>0</occluded><attributes><attribute><name>rotation</name></attribute></attributes>"
        _write(root / "Annotations" / f"{item.stem}.xml", _xml(item, f"{item.stem}.jpg", extra, ".0"))
    _write(root / "ImageSets" / "Main" / "default.txt", "".join(f"{item.stem}\n" for item in all_items))
    _write(root / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(f"{name}:::\n" for name in CLASSES))


def _coco(part: Sequence[Item], ending: str = ".jpg", dummy: bool = False) -> str:
    first = 1
    categories: list[dict[str, Any]] = [{"id": 0, "name": "fruits", "supercategory": "none"}] if dummy else []
    above = "fruits" if dummy else ""
    categories += [{"id": i, "name": name, "supercategory": above} for i, name in enumerate(CLASSES, start=first)]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, item in enumerate(part):
        size = {"width": WIDTH, "height": HEIGHT}
        images.append({"id": number, "license": 1, "file_name": f"{item.stem}{ending}", **size})
        for name, x1, y1, x2, y2 in item.boxes:
            box: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            where = {"image_id": number, "category_id": first + CLASSES.index(name)}
            annotations.append({"id": len(annotations), **where, **box, "segmentation": []})
    info = {"info": {"version": ""}, "licenses": [{"id": 1, "name": "", "url": ""}]}
    return json.dumps({**info, "images": images, "categories": categories, "annotations": annotations})


def make_coco_splits(root: Path, all_items: Sequence[Item]) -> None:
    for split, part in _parts(all_items, "train2017", "val2017").items():
        for item in part:
            write_picture(root / split / f"{item.stem}.jpg", item)
        _write(root / "annotations" / f"instances_{split}.json", _coco(part))
        _write(root / "annotations" / f"captions_{split}.json", "{}")


def make_coco_flat(root: Path, all_items: Sequence[Item]) -> None:
    for split, part in _parts(all_items, "train2017", "val2017").items():
        for item in part:
            write_picture(root / f"{item.stem}.jpg", item)
        _write(root / f"instances_{split}.json", _coco(part))


def make_coco_one(root: Path, all_items: Sequence[Item]) -> None:
    for item in all_items:
        write_picture(root / f"{item.stem}.jpg", item)
    _write(root / "labels.json", _coco(all_items))


def make_roboflow_coco(root: Path, all_items: Sequence[Item]) -> None:
    for split, part in _parts(all_items, "train", "valid", "test").items():
        for item in part:
            write_picture(root / split / f"{item.stem}.jpg", item)
        _write(root / split / "_annotations.coco.json", _coco(part, dummy=True))
    _write(root / "README.dataset.txt", "made with care")


def make_cvat_coco(root: Path, all_items: Sequence[Item]) -> None:
    for item in all_items:
        write_picture(root / "images" / f"{item.stem}.jpg", item)
    text = _coco(all_items).replace('"iscrowd": 0', '"iscrowd": 0, "attributes": {"occluded": false, "rotation": 0.0}')
    _write(root / "annotations" / "instances_default.json", text)


def _yolo(item: Item, polygons: bool = False) -> str:
    lines = ""
    for name, x1, y1, x2, y2 in item.boxes:
        left, right, top, bottom = x1 / WIDTH, x2 / WIDTH, y1 / HEIGHT, y2 / HEIGHT
        values = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        if polygons:
            values = [left, top, right, top, right, bottom, left, bottom]
        lines += f"{CLASSES.index(name)} " + " ".join(f"{value:.6f}" for value in values) + "\n"
    return lines


def make_roboflow_yolo(root: Path, all_items: Sequence[Item]) -> None:
    for split, part in _parts(all_items, "train", "valid", "test").items():
        for item in part:
            write_picture(root / split / "images" / f"{item.stem}.jpg", item)
            _write(root / split / "labels" / f"{item.stem}.txt", _yolo(item).rstrip("\n"))
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    _write(root / "data.yaml", f"{paths}\nnc: 3\nnames: ['apple', 'pear', 'fig']\n\nroboflow:\n  version: 1\n")


def make_ultralytics(root: Path, all_items: Sequence[Item]) -> None:
    for split, part in _parts(all_items, "train", "val").items():
        for item in part:
            write_picture(root / "images" / split / f"{item.stem}.jpg", item)
            if item.boxes:  # no file for an image without objects
                _write(root / "labels" / split / f"{item.stem}.txt", _yolo(item, polygons=True))
        _write(root / "labels" / f"{split}.cache", "binary")
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
    _write(
        root / "fruits.yaml", f"path: ../datasets/fruits # root\ntrain: images/train\nval: images/val\nnames:\n{names}"
    )


def make_labelimg_yolo(root: Path, all_items: Sequence[Item]) -> None:
    for item in all_items:
        write_picture(root / f"{item.stem}.jpg", item)
        _write(root / f"{item.stem}.txt", _yolo(item).replace("\n", "\r\n"))
    _write(root / "classes.txt", "apple\r\npear\r\nfig\r\n")


def make_csv(root: Path, all_items: Sequence[Item]) -> None:
    lines = ""
    for item in all_items:
        write_picture(root / "images" / f"{item.stem}.jpg", item)
        rows = [f"images/{item.stem}.jpg,{x1},{y1},{x2},{y2},{name}\n" for name, x1, y1, x2, y2 in item.boxes]
        lines += "".join(rows) or f"images/{item.stem}.jpg,,,,,\n"
    _write(root / "annotations.csv", lines)
    _write(root / "classes.csv", "apple,0\npear,1\nfig,2\n")


def make_csv_header(root: Path, all_items: Sequence[Item]) -> None:
    for split, part in _parts(all_items, "train", "test").items():
        lines = "filename,width,height,class,xmin,ymin,xmax,ymax\r\n"
        for item in part:
            write_picture(root / split / f"{item.stem}.jpg", item)
            size = f"{item.stem}.jpg,{WIDTH},{HEIGHT}"
            lines += "".join(f"{size},{name},{x1},{y1},{x2},{y2}\r\n" for name, x1, y1, x2, y2 in item.boxes)
            lines += "" if item.boxes else f"{size},,,,,\r\n"
        _write(root / split / "_annotations.csv", lines)


def _labelme(item: Item, path: str) -> str:
    """Polygons from the lower right corner on, and rectangles from corner to opposite corner, as they were clicked."""
    shapes: list[dict[str, Any]] = []
    for number, (name, x1, y1, x2, y2) in enumerate(item.boxes):
        corners = [[x2, y2], [x1, y2], [x1, y1], [x2, y1]]
        kind, points = ("rectangle", [[x2, y1], [x1, y2]]) if number == 2 else ("polygon", corners)
        shapes.append(
            {"label": name, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}
        )
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": path, "imageData": "aGVsbG8=", **size}
    return json.dumps(content, indent=2)


def make_labelme(root: Path, all_items: Sequence[Item]) -> None:
    for item in all_items:
        write_picture(root / f"{item.stem}.jpg", item)
        _write(root / f"{item.stem}.json", _labelme(item, f"{item.stem}.jpg"))


def make_labelme_folders(root: Path, all_items: Sequence[Item]) -> None:
    for split, part in _parts(all_items, "train", "val").items():
        for item in part:
            write_picture(root / "images" / split / f"{item.stem}.png", item)
            path = root / "labels" / split / f"{item.stem}.json"
            _write(path, _labelme(item, f"..\\..\\images\\{split}\\{item.stem}.png"))


@dataclass(frozen=True)
class Made:
    """A layout: who makes it, what it is called, and which splits it has by itself."""

    make: Callable[[Path, Sequence[Item]], None]
    format: str
    roles: tuple[str, ...] = ()
    tolerance: float = 0.0


LAYOUTS = {
    "VOC devkit": Made(make_devkit, "voc", ("train", "val")),
    "LabelImg": Made(make_labelimg, "voc_files"),
    "images and annotations": Made(make_folders, "voc_files"),
    "Roboflow VOC": Made(make_roboflow_voc, "voc_files", ("train", "val", "test")),
    "CVAT VOC": Made(make_cvat_voc, "voc"),
    "COCO": Made(make_coco_splits, "coco", ("train", "val")),
    "flat COCO": Made(make_coco_flat, "coco", ("train", "val")),
    "one JSON": Made(make_coco_one, "coco"),
    "Roboflow COCO": Made(make_roboflow_coco, "coco_folders", ("train", "val", "test")),
    "CVAT COCO": Made(make_cvat_coco, "coco"),
    "Roboflow YOLO": Made(make_roboflow_yolo, "yolo", ("train", "val", "test"), 0.5),
    "Ultralytics polygons": Made(make_ultralytics, "yolo", ("train", "val"), 0.5),
    "LabelImg YOLO": Made(make_labelimg_yolo, "yolo", (), 0.5),
    "CSV": Made(make_csv, "csv"),
    "LabelMe": Made(make_labelme, "labelme"),
    "LabelMe folders": Made(make_labelme_folders, "labelme", ("train", "val")),
    "CSV with header": Made(make_csv_header, "csv", ("train", "test")),
}


def make_index_masks(root: Path, *, beside: bool) -> None:
    """Six images whose masks hold one class of three, and one ignored pixel."""
    for number, item in enumerate(items(6)):
        stem = f"{item.seed:02d}"
        write_picture(root / f"{stem}.jpg" if beside else root / "images" / f"{stem}.png", item)
        mask = np.full((HEIGHT, WIDTH), number % 3, np.uint8)
        mask[0, 0] = 255
        path = root / f"{stem}.png" if beside else root / "masks" / f"{stem}_mask.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)


def main(root: Path) -> None:
    """Write all layouts."""
    for name, layout in LAYOUTS.items():
        layout.make(root / name.replace(" ", "_"), items())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
