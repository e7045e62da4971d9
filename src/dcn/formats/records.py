"""What the readers of boxes give that have no reader class of their own: images with named boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dcn.formats import fields
from dcn.formats.fields import Box
from dcn.formats.images import size_message
from dcn.formats.masks import cut_outline
from dcn.formats.problems import Problem, Report, attempt_object, short


@dataclass(frozen=True)
class BoxObject:
    """One object.

    Attributes:
        entry: where it is in its file, for messages.
        name: of its class.
        box: xyxy in continuous edges, cut to the image.
        difficult: not trained on, ignored in evaluation.
        segmentation: checked polygons or run lengths as COCO has them, where the file has an outline.
        degenerate: whether the box has no extent.
    """

    entry: str
    name: str
    box: Box
    difficult: bool = False
    segmentation: Any = None
    degenerate: bool = False


@dataclass(frozen=True)
class BoxRecord:
    """One image.

    Attributes:
        name: of the image, relative to the folder of the data, without its ending.
        image: the image file.
        source: the file with its annotation.
        size: ``(height, width)``.
        objects: in the order of the file.
    """

    name: str
    image: Path
    source: Path
    size: tuple[int, int]
    objects: tuple[BoxObject, ...]


@dataclass(frozen=True)
class BoxFiles:
    """A split: the class names of the whole folder, and the images."""

    classes: tuple[str, ...]
    records: tuple[BoxRecord, ...]


def report_degenerate(records: Sequence[BoxRecord], report: Report) -> int:
    """Report every box without extent and return how many there are."""
    pairs = [(record, item) for record in records for item in record.objects if item.degenerate]
    for record, item in pairs:
        corners = ", ".join(f"{value:g}" for value in item.box)
        report(Problem(record.source, item.entry, f"box ({corners}) (x1, y1, x2, y2) has no extent"))
    return len(pairs)


def report_unknown_classes(files: BoxFiles, classes: Sequence[str], report: Report) -> None:
    """Report every object whose class is not among ``classes``."""
    known = set(classes)
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    for record in files.records:
        for item in record.objects:
            if item.name not in known:
                message = f"class: expected one of {shown}, got {short(item.name)}"
                report(Problem(record.source, item.entry, message))


def size_problem(record: BoxRecord, stored: tuple[int, int]) -> Problem:
    """An image whose pixels are not of the annotated size; ``stored`` is ``(height, width)``."""
    return Problem(record.source, "size", size_message(record.image, record.size, stored))


def checked(record: BoxRecord, report: Report) -> BoxRecord:
    """The record with the boxes that are right, cut to the image; the others are reported."""
    objects = (
        attempt_object(partial(_checked, item, record.size), report, record.source, item.entry)
        for item in record.objects
    )
    return replace(record, objects=tuple(item for item in objects if item is not None))


def _checked(item: BoxObject, size: tuple[int, int], clip: bool = False) -> BoxObject:
    if len(item.box) != 4 or not all(isinstance(v, int | float) and math.isfinite(v) for v in item.box):
        raise ValueError(f"box: expected four finite numbers x1, y1, x2, y2, got {short(item.box)}")
    fields.class_name(item.name)
    x1, y1, x2, y2 = map(float, item.box)
    if x2 < x1 or y2 < y1:
        raise ValueError(f"expected x1 <= x2 and y1 <= y2, got the reversed box ({x1:g}, {y1:g}, {x2:g}, {y2:g})")
    x, y, w, h = fields.inside([x1, y1, x2 - x1, y2 - y1], size, clip)
    outline = cut_outline(item.segmentation, size) if clip else item.segmentation
    degenerate = item.degenerate or w <= 0 or h <= 0
    return replace(item, box=(x, y, x + w, y + h), segmentation=outline, degenerate=degenerate)


def relative_name(image: Path, root: Path) -> str:
    """The name of an image in a folder, without its ending, with slashes on every system."""
    return image.relative_to(root).with_suffix("").as_posix()
