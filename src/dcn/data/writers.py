"""Writing a data set as Pascal VOC or COCO files: to exercise the readers, or to take drawn data elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from dcn.data.dataset import Dataset
from dcn.data.images import write_image
from dcn.data.masks import encode_mask
from dcn.structures import Sample, Target


def _target(sample: Sample, dataset: Dataset) -> Target:
    if not isinstance(sample.target, Target):
        raise ValueError(f"dataset: {dataset.name} gives label maps; expected boxes (leave semantic=True out)")
    return sample.target


def _stem(split: str, target: Target) -> str:
    """A file stem that different splits of one folder do not share."""
    return f"{split}_{target.image_id:06d}" if isinstance(target.image_id, int) else target.image_id


def _suffix(lossless: bool) -> str:
    return ".png" if lossless else ".jpg"


def write_voc(dataset: Dataset, folder: str | Path, split: str, *, lossless: bool = False) -> Path:
    """Write ``Annotations``, ``ImageSets/Main/<split>.txt`` and ``JPEGImages``; other splits already there are kept.

    Boxes are rounded outwards to whole pixels, 1-based and inclusive, as the format wants them; masks have no place in
    it and are left out.

    Args:
        dataset: boxes with classes.
        folder: made when missing.
        split: the name of the list.
        lossless: PNG instead of JPEG (quality 95).

    Returns:
        The folder, as a path.

    Raises:
        ValueError: the data set gives label maps.
    """
    folder = Path(folder)
    places = [folder / name for name in ("Annotations", "JPEGImages", "ImageSets/Main")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    stems = []
    for index in range(len(dataset)):
        sample = dataset[index]
        target = _target(sample, dataset)
        stem = _stem(split, target)
        write_image(places[1] / f"{stem}{_suffix(lossless)}", sample.image)
        tree = ElementTree.ElementTree(_annotation(f"{stem}{_suffix(lossless)}", target, dataset.classes))
        ElementTree.indent(tree)
        tree.write(places[0] / f"{stem}.xml", encoding="utf-8")
        stems.append(stem)
    (places[2] / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    return folder


def _annotation(file_name: str, target: Target, classes: tuple[str, ...]) -> Element:
    root = Element("annotation")
    SubElement(root, "filename").text = file_name
    size = SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (target.size[1], target.size[0], 3), strict=True):
        SubElement(size, tag).text = str(value)
    assert target.difficult is not None
    rows = zip(target.boxes.tolist(), target.labels.tolist(), target.difficult.tolist(), strict=True)
    for (x1, y1, x2, y2), label, difficult in rows:
        item = SubElement(root, "object")
        SubElement(item, "name").text = classes[label]
        SubElement(item, "difficult").text = str(int(difficult))
        box = SubElement(item, "bndbox")
        corners = (math.floor(x1) + 1, math.floor(y1) + 1, math.ceil(x2), math.ceil(y2))
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            SubElement(box, tag).text = str(value)
    return root


def write_coco(dataset: Dataset, folder: str | Path, split: str, *, lossless: bool = False) -> Path:
    """Write ``annotations/instances_<split>.json`` and the images in ``<split>``; other splits are kept.

    Categories are numbered from 1 in the order of the classes, masks written as compressed run lengths.

    Args:
        dataset: boxes with classes, and masks where it has them.
        folder: made when missing.
        split: the name of the split.
        lossless: PNG instead of JPEG (quality 95).

    Returns:
        The annotation file.

    Raises:
        ValueError: the data set gives label maps.
    """
    folder = Path(folder)
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        target = _target(sample, dataset)
        name = f"{_stem(split, target)}{_suffix(lossless)}"
        number = target.image_id if isinstance(target.image_id, int) else index + 1
        write_image(folder / split / name, sample.image)
        images.append({"id": number, "file_name": name, "height": target.size[0], "width": target.size[1]})
        annotations += [{"id": len(annotations) + 1 + i, **row} for i, row in enumerate(_rows(target, number))]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(dataset.classes)]
    path = folder / "annotations" / f"instances_{split}.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _rows(target: Target, image_id: int) -> list[dict[str, Any]]:
    assert target.crowd is not None
    assert target.area is not None
    rows: list[dict[str, Any]] = []
    for place, (x1, y1, x2, y2) in enumerate(target.boxes.tolist()):
        row = {
            "image_id": image_id,
            "category_id": int(target.labels[place]) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(target.area[place]),
            "iscrowd": int(target.crowd[place]),
        }
        rows.append(row if target.masks is None else {**row, "segmentation": encode_mask(target.masks[place])})
    return rows
