"""Reads what detections are compared with: a COCO annotation file, or a Pascal VOC folder.

Both become the same rows, in COCO's form with numbers of our own, so that any result file can be scored by either
protocol. Data sets for training are read elsewhere, with their images; here only what scoring needs is read, and
strictly: the first entry that makes no sense is an error naming file and entry.
"""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dcn.class_names import VOC_CLASSES
from dcn.metrics.coco import Row
from dcn.metrics.detection import check_classes


@dataclass(frozen=True)
class Truth:
    """The annotations of a set of images.

    Attributes:
        path: file or folder it came from.
        classes: class names; ``category_id`` of the rows is ``1 ..`` C in this order.
        images: rows with ``id`` (1..), ``height``, ``width`` (0 where unknown).
        objects: rows with ``id``, ``image_id``, ``category_id``, ``bbox`` (x, y, width, height; continuous edges),
            ``area``, ``iscrowd``, ``difficult`` and, where known, ``segmentation``.
        image_numbers: number of an image by what a result file may call it: its id, file name or file stem.
        category_numbers: number of a class by the id (as text) that the annotation file gives it.
        is_voc: it came from a VOC folder (its numbers were 1-based and inclusive in the file).
    """

    path: Path
    classes: tuple[str, ...]
    images: list[Row]
    objects: list[Row]
    image_numbers: dict[str, int]
    category_numbers: dict[str, int]
    is_voc: bool


def read_truth(path: Path, classes: Sequence[str] | None, split: str | None) -> Truth:
    """Read an annotation file (``.json``) or a VOC folder; arguments as in `dcn.metrics.evaluate_files`."""
    if path.is_dir():
        return _read_voc(path, classes, split)
    if not path.is_file():
        raise ValueError(f"annotations: expected a COCO annotation file or a VOC folder, found nothing at {path}")
    if split is not None:
        raise ValueError(
            f"split: expected None for an annotation file, got {split!r} with {path}; it is for VOC folders"
        )
    return _read_coco(path, classes)


def load_json(path: Path) -> Any:
    """The content of a JSON file; ValueError with the place for a malformed one."""
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected JSON, got something else: {error}") from error


def number(value: object, where: str) -> float:
    """``value`` if it is a finite number; ``where`` names file, entry and field for the error."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {value!r}")
    return float(value)


def box_xywh(value: object, where: str) -> list[float]:
    """``value`` if it is a box ``[x, y, width, height]`` without negative sides."""
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"{where}: expected a box [x, y, width, height], got {value!r}")
    box = [number(v, where) for v in value]
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"{where}: expected a width and height of 0 or more, got {value!r}")
    return box


def edges_from_inclusive(x1: float, y1: float, x2: float, y2: float, where: str) -> list[float]:
    """``[x, y, width, height]`` with continuous edges of VOC's 1-based inclusive corners."""
    if x2 < x1 - 1 or y2 < y1 - 1:
        raise ValueError(f"{where}: expected xmin <= xmax and ymin <= ymax, got {x1:g} {y1:g} {x2:g} {y2:g}")
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]


def table(content: object, name: str, path: Path) -> list[Row]:
    """The list of objects ``content[name]`` of a COCO file."""
    rows = content.get(name) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected a list of objects under {name!r}; is this a COCO annotation file?")
    return rows


def field(row: Row, name: str, where: str) -> Any:
    """``row[name]``; ValueError if it is missing."""
    if name not in row:
        raise ValueError(f"{where}: expected a field {name!r}, got only {sorted(row)}")
    return row[name]


def class_order(found: Sequence[str], classes: Sequence[str] | None, path: Path, is_voc: bool) -> tuple[str, ...]:
    """The classes in order: those given, VOC's twenty for these (or, in a VOC folder, some of them), else as found."""
    if classes is None:
        known = set(found) <= set(VOC_CLASSES) if is_voc else set(found) == set(VOC_CLASSES)
        return VOC_CLASSES if known else check_classes(found)
    missing = [name for name in found if name not in classes]
    if missing:
        raise ValueError(f"classes: expected every class of {path}, missing {missing}")
    return check_classes(classes)


def image_names(name: str) -> list[str]:
    """What a result file may call the image in the file ``name``."""
    return [name, PurePosixPath(name).name, PurePosixPath(name).stem]


def _read_coco(path: Path, classes: Sequence[str] | None) -> Truth:
    content = load_json(path)
    categories = [
        (str(field(row, "id", f"{path}: category {i}")), str(field(row, "name", f"{path}: category {i}")))
        for i, row in enumerate(table(content, "categories", path))
    ]
    order = class_order([name for _, name in categories], classes, path, is_voc=False)
    numbers = {key: order.index(name) + 1 for key, name in categories}
    if len(numbers) != len(categories):
        raise ValueError(f"{path}: expected different ids in 'categories', got {[key for key, _ in categories]}")
    images, ids, names = _coco_images(table(content, "images", path), path)
    objects = [
        _coco_object(row, i, ids, numbers, f"{path}: annotation {i} (id {row.get('id')})")
        for i, row in enumerate(table(content, "annotations", path))
    ]
    return Truth(path, order, images, objects, {**names, **ids}, numbers, is_voc=False)


def _coco_images(rows: list[Row], path: Path) -> tuple[list[Row], dict[str, int], dict[str, int]]:
    """Image rows, numbered by rising id; these numbers by id and by file name."""

    def rank(row: Row) -> tuple[bool, float, str]:
        key = row["id"]
        return (False, key, "") if isinstance(key, int | float) else (True, 0, str(key))

    for i, row in enumerate(rows):
        field(row, "id", f"{path}: image {i}")
    images: list[Row] = []
    ids: dict[str, int] = {}
    names: dict[str, int] = {}
    for n, row in enumerate(sorted(rows, key=rank), start=1):
        images.append({"id": n, "height": row.get("height", 0), "width": row.get("width", 0)})
        ids[str(row["id"])] = n
        names.update(dict.fromkeys(image_names(str(row.get("file_name", ""))), n))
    if len(ids) != len(images):
        raise ValueError(f"{path}: expected different ids in 'images', got {len(ids)} for {len(images)} images")
    names.pop("", None)
    return images, ids, names


def _coco_object(row: Row, i: int, images: dict[str, int], categories: dict[str, int], where: str) -> Row:
    image, category = str(field(row, "image_id", where)), str(field(row, "category_id", where))
    if image not in images:
        raise ValueError(f"{where}: expected the id of an image in the file, got image_id {image!r}")
    if category not in categories:
        raise ValueError(f"{where}: expected the id of a category in the file, got category_id {category!r}")
    box = box_xywh(field(row, "bbox", where), where)
    attributes = row.get("attributes")
    flags = [row, attributes] if isinstance(attributes, dict) else [row]
    made: Row = {
        "id": i + 1,
        "image_id": images[image],
        "category_id": categories[category],
        "bbox": box,
        "area": number(row.get("area", box[2] * box[3]), where),
        "iscrowd": int(bool(row.get("iscrowd", 0))),
        "difficult": any(bool(flag.get(name)) for flag in flags for name in ("difficult", "ignore")),
    }
    return {**made, "segmentation": row["segmentation"]} if row.get("segmentation") else made


def _read_voc(root: Path, classes: Sequence[str] | None, split: str | None) -> Truth:
    folder = root if root.name == "Annotations" else root / "Annotations"
    if not folder.is_dir():
        raise ValueError(f"annotations: expected a VOC folder with Annotations/*.xml, got {root}")
    stems = _voc_stems(folder.parent / "ImageSets" / "Main", folder, split)
    parsed = {stem: _voc_image(folder / f"{stem}.xml") for stem in stems}
    found = sorted({name for _, rows in parsed.values() for name, _ in rows})
    order = class_order(found, classes, folder, is_voc=True)
    images: list[Row] = []
    objects: list[Row] = []
    numbers: dict[str, int] = {}
    for n, (stem, (size, rows)) in enumerate(parsed.items(), start=1):
        images.append({"id": n, **size})
        numbers.update(dict.fromkeys((stem, f"{stem}.jpg", f"{stem}.png", f"{stem}.jpeg"), n))
        for name, row in rows:
            key = {"id": len(objects) + 1, "image_id": n, "category_id": order.index(name) + 1}
            objects.append({**row, **key})
    category_numbers = {str(i): i for i in range(1, len(order) + 1)}
    return Truth(root, order, images, objects, numbers, category_numbers, is_voc=True)


def _voc_stems(lists: Path, folder: Path, split: str | None) -> list[str]:
    """Which images count: those of the list ``split``, of the only list there is, or of all annotations."""
    found = {file.stem for file in lists.glob("*.txt")}
    # Beside train.txt the kits hold a list for each class, dog_train.txt: those are not sets of images.
    sets = sorted(name for name in found if name.partition("_")[2] not in found)
    if split is None and len(sets) > 1:
        raise ValueError(f"split: expected one of {sets} (lists in {lists}), got None")
    if split is not None and split not in found:
        raise ValueError(f"split: expected one of {sets} (lists in {lists}), got {split!r}")
    if not sets:
        return sorted(file.stem for file in folder.glob("*.xml"))
    text = (lists / f"{split or sets[0]}.txt").read_text()
    # Lists of one class end each line in a flag (-1, 0, 1); the names themselves may contain blanks.
    lines = (re.sub(r"\s+-?[01]$", "", line.strip()) for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def _voc_image(path: Path) -> tuple[Row, list[tuple[str, Row]]]:
    """Size and objects (class name, row) of one XML file."""
    try:
        content = path.read_bytes()
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise ValueError(f"{path}: expected plain XML, got a document type or entity definition; remove it")
        root = ET.fromstring(content)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: expected an annotation for every image of the list, this one is missing") from error
    except ET.ParseError as error:
        raise ValueError(f"{path}: expected XML, got something else: {error}") from error
    size = {name: int(_xml_number(root, f"size/{name}", f"{path}", "0")) for name in ("height", "width")}
    return size, [_voc_object(item, f"{path}: object {i}") for i, item in enumerate(root.findall("object"), start=1)]


def _voc_object(item: ET.Element, where: str) -> tuple[str, Row]:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{where}: expected a <name>, got none")
    x1, y1, x2, y2 = (_xml_number(item, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax"))
    box = edges_from_inclusive(x1, y1, x2, y2, where)
    difficult = bool(_xml_number(item, "difficult", where, "0"))
    return name, {"bbox": box, "area": box[2] * box[3], "iscrowd": int(difficult), "difficult": difficult}


def _xml_number(item: ET.Element, name: str, where: str, default: str | None = None) -> float:
    text = item.findtext(name) or default
    try:
        return number(float(text or ""), where)
    except ValueError as error:
        raise ValueError(f"{where}: expected a number in <{name}>, got {text!r}") from error
