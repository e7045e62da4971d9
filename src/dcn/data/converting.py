"""The objects of a dataset in another format: images are copied, annotations are written anew and compared."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from dcn.formats.masks import check_segmentation, extent, rectangle
from dcn.formats.new_files import NewFiles
from dcn.formats.yolo_writer import inner_parts, joined, lines_of
from dcn.structures import Target
from dcn.suggest import counted

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
        moved: boxes with an edge, or polygons with a corner, that moved by more than 0.01 pixels.
        far: those that moved by more than `TOLERANCE`, or that are gone.
        largest: the largest difference of an edge or corner in pixels.
        polygons: whether every object is written as a polygon.
        lost: what the format cannot hold, each with the number of objects.
    """

    format: str
    images: Mapping[str, int]
    boxes: int
    moved: int
    far: int
    largest: float
    polygons: bool
    lost: tuple[str, ...]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count}" for name, count in self.images.items())
        nouns = ("polygon", "polygons") if self.polygons else ("box", "boxes")
        lines = [
            f"{self.format}: {parts} images, {counted(self.boxes, *nouns)}; {counted(self.moved, *nouns)} moved by "
            f"rounding, by at most {self.largest:.3g} pixels; {self.far} by more than {TOLERANCE}"
        ]
        return "\n".join([*lines, *(f"not in the format: {text}" for text in self.lost)])


def convert(datasets: Mapping[str, Dataset], format: str, output: Path, *, boxes: bool = False) -> Conversion:
    """Write splits in another format and compare what is read from it with the source.

    YOLO takes polygons for all objects or for none. Where an object of the source has a polygon, every object becomes
    one: several parts are joined, run lengths and boxes become rectangles.

    Args:
        datasets: the splits by name; all with the same classes.
        format: ``"voc"``, ``"coco"`` or ``"yolo"``.
        output: the folder; no file in it is replaced, and a failure leaves none behind.
        boxes: write boxes alone, without masks and polygons.

    Raises:
        ValueError: an unknown format, a file that exists, segmentation masks instead of boxes, malformed polygons, or
            splits whose classes differ.
    """
    require("yaml")
    import yaml

    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    classes = _common_classes(datasets)
    form = _Form(format, boxes, format == "yolo" and not boxes and any(map(_has_polygons, datasets.values())))
    used: set[str] = set()
    lost: Counter[str] = Counter()
    stems: dict[str, list[str]] = {}
    with NewFiles() as new:
        for split, dataset in datasets.items():
            stems[split] = [_free_name(_image(dataset, index).stem, used) for index in range(len(dataset))]
            _WRITERS[format](new, output, safe_name(split), _items(dataset, stems[split], form, lost), classes)
        if format == "yolo":
            with new.open(output / "data.yaml") as file:
                folders = {name: f"images/{name}" for name in map(safe_name, datasets)}
                content = {**folders, "names": dict(enumerate(classes))}
                file.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode("utf-8"))
        differences = [_differences(datasets[split], stems[split], output, form, split, classes) for split in datasets]
    edges = [edge for part in differences for edge in part]
    return Conversion(
        format,
        {split: len(dataset) for split, dataset in datasets.items()},
        len(edges),
        sum(edge > 0.01 for edge in edges),
        sum(edge > TOLERANCE for edge in edges),
        max(edges, default=0.0),
        form.polygons,
        tuple(f"{text} ({counted(count, 'object')})" for text, count in lost.items() if count),
    )


@dataclass(frozen=True)
class _Form:
    """What is written: with or without masks and polygons; ``polygons``: YOLO with a polygon for every object."""

    format: str
    boxes: bool
    polygons: bool


@dataclass(frozen=True)
class _Item:
    """One image: what is written, and under which name; ``shapes`` are boxes or polygons, as YOLO takes them."""

    target: Target
    image: Path
    stem: str
    shapes: list[list[float]]

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


def _items(dataset: Dataset, stems: Sequence[str], form: _Form, lost: Counter[str]) -> Iterator[_Item]:
    for index, stem in enumerate(stems):
        yield _item(dataset, index, stem, form, lost)


def _item(dataset: Dataset, index: int, stem: str, form: _Form, lost: Counter[str]) -> _Item:
    """One image as a format can hold it; what it cannot hold is counted."""
    target, image = _target(dataset, index), _image(dataset, index)
    outlines = [_outline(item) for item in _objects(dataset, index)] or [None] * len(target)
    assert target.crowd is not None
    _count_flags(target, form.format, lost)
    if form.format == "yolo":  # it would train on the regions of many objects
        outlines = [outline for outline, crowd in zip(outlines, target.crowd.tolist(), strict=True) if not crowd]
        target = target.select(~target.crowd)
    if form.boxes:
        target = replace(target, masks=None)
    elif form.format != "coco" and not form.polygons:
        what = "masks as run lengths, whose boxes are written" if form.format == "yolo" else "masks"
        lost.update(what for outline in outlines if outline is not None)
    shapes: list[list[float]] = target.boxes.tolist()
    if form.polygons:
        pairs = enumerate(zip(outlines, shapes, strict=True))
        shapes = [
            _polygon(outline, box, target.size, f"{image}: object {number}", lost) for number, (outline, box) in pairs
        ]
    return _Item(target, image, stem, shapes)


def _polygon(outline: Any, box: list[float], size: tuple[int, int], where: str, lost: Counter[str]) -> list[float]:
    """The one polygon of an object in an image of ``(height, width)``."""
    if not isinstance(outline, list):
        what = "boxes beside polygons, which" if outline is None else "masks as run lengths, whose boxes"
        lost[f"{what} are written as rectangles"] += 1
        return rectangle(box)
    try:
        check_segmentation(outline, size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    given = [part for part in outline if part]
    parts = inner_parts(given, size)
    if not parts:
        lost["polygons without an area in the image, whose boxes are written as rectangles"] += 1
        return rectangle(box)
    lost["parts of polygons outside of the image or without an area, which are left out"] += parts != given
    lost["several polygons of one object, which are joined"] += len(parts) > 1
    polygon = joined(parts)
    edges = zip(box, extent(polygon), strict=True)
    lost["boxes other than the extent of their polygon, which takes their place"] += any(
        abs(a - b) > TOLERANCE for a, b in edges
    )
    return polygon


def _objects(dataset: Any, index: int) -> Sequence[Any]:
    """What a reader has read about the objects of an image, masks decoded or not; nothing for data without files."""
    while (whole := getattr(dataset, "dataset", None)) is not None:
        dataset, index = whole, dataset.indices[index]
    records = getattr(dataset, "records", None)
    return () if records is None else getattr(records[index], "objects", ())


def _outline(item: object) -> Any:
    """Polygons, run lengths, or ``None``."""
    return getattr(item, "segmentation", None)


def _has_polygons(dataset: Dataset) -> bool:
    """Whether an object that YOLO takes has polygons."""
    objects = (item for index in range(len(dataset)) for item in _objects(dataset, index))
    return any(isinstance(_outline(item), list) and not getattr(item, "crowd", False) for item in objects)


def _target(dataset: Dataset, index: int) -> Target:
    target = target_of(dataset, index)
    if not isinstance(target, Target):
        raise ValueError(f"dataset: expected boxes, got segmentation masks in {dataset.name}")
    return target


def _count_flags(target: Target, format: str, lost: Counter[str]) -> None:
    """Count the objects whose flags a format does not have."""
    assert target.crowd is not None
    assert target.difficult is not None
    if format == "voc":
        lost["regions of many objects (crowd), which are written as difficult"] += int(target.crowd.sum())
    if format == "yolo":
        lost["regions of many objects (crowd), which are left out"] += int(target.crowd.sum())
        lost["the flag difficult: these objects are written as ordinary ones"] += int(
            (target.difficult & ~target.crowd).sum()
        )


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
            file.write(lines_of(item.target.labels.tolist(), item.shapes, item.target.size).encode("utf-8"))


_WRITERS: dict[str, _Write] = {"voc": _write_voc, "coco": _write_coco, "yolo": _write_yolo}


def _differences(
    dataset: Dataset, stems: Sequence[str], output: Path, form: _Form, split: str, classes: tuple[str, ...]
) -> list[float]:
    """For each object the largest difference of an edge of its box, or of a corner of its polygon, in pixels; infinite
    where the object or its class is another.
    """
    format = form.format
    options: dict[str, Any] = {"degenerate": "keep"} | ({"masks": False} if format != "voc" else {})
    written = open_dataset(format, output, safe_name(split), **options, **_classes_option(format, classes))
    positions = {_image(written, index).stem: index for index in range(len(written))}
    edges: list[float] = []
    for index, stem in enumerate(stems):
        item = _item(dataset, index, stem, form, Counter())
        copy = _target(written, positions[stem])
        if item.target.labels.tolist() != copy.labels.tolist():
            edges += [math.inf] * max(len(item.target), len(copy))
        elif len(copy):
            read = map(_outline, _objects(written, positions[stem]))
            moved = (item.target.boxes - copy.boxes).abs().amax(1).tolist()
            edges += map(_farthest, item.shapes, read) if form.polygons else moved
    return edges


def _farthest(polygon: Sequence[float], parts: Any) -> float:
    """The largest difference of two polygons, the second of them as it was read."""
    (other,) = parts or [()]
    if len(polygon) != len(other):
        return math.inf
    return max(abs(a - b) for a, b in zip(polygon, other, strict=True))


def _classes_option(format: str, classes: tuple[str, ...]) -> dict[str, Any]:
    return {"classes": list(classes)} if format == "voc" else {}
