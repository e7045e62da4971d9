"""The boxes of a dataset in another format: images are copied, annotations are written anew and compared."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from dcn.data.catalog import open_dataset
from dcn.data.dataset import Dataset
from dcn.data.splitting import target_of
from dcn.extras import require
from dcn.formats.coco_writer import target_rows
from dcn.formats.file_names import SUFFIXES, safe_name
from dcn.formats.new_files import NewFiles
from dcn.formats.yolo import lines_of
from dcn.structures import Target

FORMATS = ("voc", "coco", "yolo")
TOLERANCE = 0.5
"""Pixels by which an edge may move: VOC has whole pixels."""


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        format: ``voc``, ``coco`` or ``yolo``.
        images: how many were written, by split.
        boxes: how many were written.
        moved: boxes with an edge that moved by more than 0.01 pixels.
        far: boxes with an edge that moved by more than `TOLERANCE`, or that are gone.
        largest: the largest difference of an edge in pixels.
        lost: what the format cannot hold.
    """

    format: str
    images: Mapping[str, int]
    boxes: int
    moved: int
    far: int
    largest: float
    lost: tuple[str, ...]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count}" for name, count in self.images.items())
        lines = [
            f"{self.format}: {parts} images, {self.boxes} boxes; {self.moved} boxes moved by rounding, by at most "
            f"{self.largest:.3g} pixels; {self.far} by more than {TOLERANCE}"
        ]
        return "\n".join([*lines, *(f"not in the format: {text}" for text in self.lost)])


def convert(datasets: Mapping[str, Dataset], format: str, output: Path) -> Conversion:
    """Write splits in another format and compare what is read from it with the source.

    Args:
        datasets: the splits by name; all with the same classes.
        format: ``"voc"``, ``"coco"`` or ``"yolo"``.
        output: the folder; no file in it is replaced, and a failure leaves none behind.

    Raises:
        ValueError: an unknown format, a file that exists, segmentation masks instead of boxes, or splits whose classes
            differ.
    """
    require("yaml")
    import yaml

    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    classes = _common_classes(datasets)
    used: set[str] = set()
    lost: dict[str, None] = {}
    stems: dict[str, list[str]] = {}
    with NewFiles() as new:
        for split, dataset in datasets.items():
            stems[split] = [_free_name(_image(dataset, index).stem, used) for index in range(len(dataset))]
            _WRITERS[format](new, output, safe_name(split), _items(dataset, stems[split], format, lost), classes)
        if format == "yolo":
            with new.open(output / "data.yaml") as file:
                folders = {name: f"images/{name}" for name in map(safe_name, datasets)}
                content = {**folders, "names": dict(enumerate(classes))}
                file.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode("utf-8"))
        differences = [
            _differences(datasets[split], stems[split], output, format, split, classes) for split in datasets
        ]
    edges = [edge for part in differences for edge in part]
    return Conversion(
        format,
        {split: len(dataset) for split, dataset in datasets.items()},
        len(edges),
        sum(edge > 0.01 for edge in edges),
        sum(edge > TOLERANCE for edge in edges),
        max(edges, default=0.0),
        tuple(lost),
    )


@dataclass(frozen=True)
class _Item:
    """One image: what is written, and under which name."""

    target: Target
    image: Path
    stem: str

    @property
    def file_name(self) -> str:
        return f"{self.stem}{self.image.suffix}"


_Write = Callable[[NewFiles, Path, str, Iterator[_Item], tuple[str, ...]], None]


def _common_classes(datasets: Mapping[str, Dataset]) -> tuple[str, ...]:
    first = next(iter(datasets.values()), None)
    if first is None:
        raise ValueError("datasets: expected one split or more, got none")
    for split, dataset in datasets.items():
        if dataset.classes != first.classes:
            raise ValueError(
                f"classes: expected those of {first.name}, {list(first.classes)}, got {list(dataset.classes)} in "
                f"{split!r}"
            )
    return tuple(first.classes)


def _free_name(stem: str, used: set[str]) -> str:
    """A name that no other image has: files of one name may lie in different folders."""
    plain = name = safe_name(stem)
    number = 2
    while name.casefold() in used:
        name, number = f"{plain}_{number}", number + 1
    used.add(name.casefold())
    return name


def _image(dataset: Dataset, index: int) -> Path:
    path = dataset.image_path(index)
    if path is None or not path.is_file():
        raise ValueError(f"dataset: expected images in files, got no file for image {index} of {dataset.name}")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected an image that ends in one of {', '.join(SUFFIXES)}; rename or convert it")
    return path


def _items(dataset: Dataset, stems: Sequence[str], format: str, lost: dict[str, None]) -> Iterator[_Item]:
    if format != "coco" and _has_outlines(dataset):
        lost["masks"] = None
    for index, stem in enumerate(stems):
        target = _target(dataset, index)
        for text in _losses(target, format):
            lost[text] = None
        yield _Item(_writable(target, format), _image(dataset, index), stem)


def _has_outlines(dataset: Any) -> bool:
    """Whether objects of a data set, or of the one that it is a part of, have outlines, decoded or not."""
    while (whole := getattr(dataset, "dataset", None)) is not None:
        dataset = whole
    records = getattr(dataset, "records", ())
    return any(getattr(item, "segmentation", None) is not None for record in records for item in record.objects)


def _target(dataset: Dataset, index: int) -> Target:
    target = target_of(dataset, index)
    if not isinstance(target, Target):
        raise ValueError(f"dataset: expected boxes, got segmentation masks in {dataset.name}")
    return target


def _writable(target: Target, format: str) -> Target:
    """What a format can hold: YOLO would train on the regions of many objects, which are left out."""
    return target.select(~target.crowd) if format == "yolo" and target.crowd is not None else target


def _losses(target: Target, format: str) -> Iterator[str]:
    assert target.crowd is not None
    assert target.difficult is not None
    if format == "voc" and bool(target.crowd.any()):
        yield "regions of many objects (crowd), which are written as difficult"
    if format == "yolo" and bool(target.crowd.any()):
        yield "regions of many objects (crowd), which are left out"
    if format == "yolo" and bool(target.difficult.any()):
        yield "the flag difficult: these objects are written as ordinary ones"


def _copy(new: NewFiles, source: Path, path: Path) -> None:
    with new.open(path) as file, source.open("rb") as image:
        shutil.copyfileobj(image, file)


def _write_coco(new: NewFiles, output: Path, split: str, items: Iterator[_Item], classes: tuple[str, ...]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with new.open(output / "annotations" / f"instances_{split}.json") as file:
        for number, item in enumerate(items, start=1):
            _copy(new, item.image, output / split / item.file_name)
            height, width = item.target.size
            images.append({"id": number, "file_name": item.file_name, "height": height, "width": width})
            assert item.target.difficult is not None
            rows = zip(target_rows(item.target, number), item.target.difficult.tolist(), strict=True)
            for row, difficult in rows:
                flags = {"difficult": 1} if difficult else {}
                annotations.append({"id": len(annotations) + 1, **row, **flags})
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file.write(json.dumps(content).encode("utf-8"))


def _write_voc(new: NewFiles, output: Path, split: str, items: Iterator[_Item], classes: tuple[str, ...]) -> None:
    with new.open(output / "ImageSets" / "Main" / f"{split}.txt") as listing:
        for item in items:
            _copy(new, item.image, output / "JPEGImages" / item.file_name)
            tree = ElementTree.ElementTree(_annotation(item, classes))
            ElementTree.indent(tree)
            with new.open(output / "Annotations" / f"{item.stem}.xml") as file:
                tree.write(file, encoding="utf-8")
            listing.write(f"{item.stem}\n".encode())


def _annotation(item: _Item, classes: tuple[str, ...]) -> Element:
    """Edges go to the nearest pixel: at most half a pixel, where the box is not thinner than one."""
    root, target = Element("annotation"), item.target
    assert target.difficult is not None
    assert target.crowd is not None
    SubElement(root, "filename").text = item.file_name
    size = SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (target.size[1], target.size[0], 3), strict=True):
        SubElement(size, tag).text = str(value)
    ignored = (target.difficult | target.crowd).tolist()
    for (x1, y1, x2, y2), label, difficult in zip(target.boxes.tolist(), target.labels.tolist(), ignored, strict=True):
        entry = SubElement(root, "object")
        SubElement(entry, "name").text = classes[label]
        SubElement(entry, "difficult").text = str(int(difficult))
        box = SubElement(entry, "bndbox")
        left, top = min(round(x1), target.size[1] - 1) + 1, min(round(y1), target.size[0] - 1) + 1
        corners = (left, top, max(round(x2), left), max(round(y2), top))
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            SubElement(box, tag).text = str(value)
    return root


def _write_yolo(new: NewFiles, output: Path, split: str, items: Iterator[_Item], classes: tuple[str, ...]) -> None:
    for item in items:
        _copy(new, item.image, output / "images" / split / item.file_name)
        with new.open(output / "labels" / split / f"{item.stem}.txt") as file:
            text = lines_of(item.target.boxes.tolist(), item.target.labels.tolist(), item.target.size)
            file.write(text.encode("utf-8"))


_WRITERS: dict[str, _Write] = {"voc": _write_voc, "coco": _write_coco, "yolo": _write_yolo}


def _differences(
    dataset: Dataset, stems: Sequence[str], output: Path, format: str, split: str, classes: tuple[str, ...]
) -> list[float]:
    """For each box the largest difference of an edge, in pixels; infinite where the box or its class is another."""
    options: dict[str, Any] = {"degenerate": "keep"} | ({"masks": False} if format != "voc" else {})
    written = open_dataset(format, output, safe_name(split), **options, **_classes_option(format, classes))
    positions = {_image(written, index).stem: index for index in range(len(written))}
    edges: list[float] = []
    for index, stem in enumerate(stems):
        source = _writable(_target(dataset, index), format)
        copy = _target(written, positions[stem])
        if source.labels.tolist() != copy.labels.tolist():
            edges += [math.inf] * max(len(source), len(copy))
        elif len(source):
            edges += (source.boxes - copy.boxes).abs().amax(1).tolist()
    return edges


def _classes_option(format: str, classes: tuple[str, ...]) -> dict[str, Any]:
    return {"classes": list(classes)} if format == "voc" else {}
