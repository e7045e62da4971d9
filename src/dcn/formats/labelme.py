"""LabelMe: a JSON file for each image, with polygons, rectangles, circles and masks in pixels.

A box is the extent of its outline or its mask. The label ``_background_`` marks nothing. Images without a JSON file are
no part of the data.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcn.formats import fields
from dcn.formats.documents import read_json
from dcn.formats.file_names import files_in, image_of, posix, resolve
from dcn.formats.images import decode_index_image, image_size
from dcn.formats.layouts import FolderPair, folder_pairs, unknown_split
from dcn.formats.masks import check_segmentation, mask_runs, rectangle
from dcn.formats.problems import OutsideError, Problem, Report, attempt, attempt_object, short
from dcn.formats.records import BoxFiles, BoxObject, BoxRecord, relative_name
from dcn.formats.splits import SPLITS_FILE

FOLDERS = ("annotations", "Annotations", "labels", "json", "jsons", "labelme")
"""Names of folders of JSON files."""

BACKGROUND = "_background_"
_FEW = 5
_PEEK = 2**16  # bytes at either end of a file in which its keys are looked for
_POINTS = {"polygon": "3 or more", "rectangle": "2 or 4", "circle": "2", "mask": "2"}
_CORNERS = 32  # of the polygon that stands for a circle


def available_splits(root: Path) -> dict[str, FolderPair]:
    """The splits of a folder of images and JSON files; ``all`` where there is one part."""
    if not root.is_dir() or not any(_looks_right(folder) for folder in _folders(root)):
        return {}
    pairs = folder_pairs(root, FOLDERS, ".json")
    return {name: pair for name, pair in pairs.items() if any(map(_looks_right, _with_inner(pair.annotations)))}


def _folders(root: Path) -> list[Path]:
    """Where JSON files may be: in the folder, in one of annotations, and in those of splits."""
    first = _with_inner(root)
    named = [folder / name for folder in first for name in FOLDERS if (folder / name).is_dir()]
    return list(dict.fromkeys([*first, *(inner for folder in named for inner in _with_inner(folder))]))


def _with_inner(folder: Path) -> list[Path]:
    return [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]


def _looks_right(folder: Path) -> bool:
    """Whether one of a few JSON files in a folder has shapes; large files of other tools are not read whole."""
    with os.scandir(folder) as entries:  # a folder of images may have 100,000 of them
        files = islice((entry.path for entry in entries if entry.name.lower().endswith(".json")), _FEW)
        return any(_has_shapes(Path(file)) for file in files)


def _has_shapes(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            ends = stream.read(_PEEK)
            stream.seek(max(0, file.stat().st_size - _PEEK))
            ends += stream.read(_PEEK)
    except OSError:
        return False
    return b'"shapes"' in ends and b'"imagePath"' in ends


def read_split(root: Path, split: str, report: Report, *, upright: bool = False) -> BoxFiles:
    """The images of a split; the classes are those of all splits, sorted.

    Raises:
        ValueError: there is no such split, whatever ``report`` does.
    """
    pairs = available_splits(root)
    if split not in pairs:
        raise unknown_split(split, pairs, root, "a folder of images and JSON files of LabelMe")
    names: set[str] = set()
    records = []
    for name, pair in pairs.items():
        for file in files_in(pair.annotations, ".json", below=not pair.side_by_side):
            if file.name == SPLITS_FILE and not _has_shapes(file):
                continue  # the record of a split, not of an image
            content = attempt(partial(_content, file), report if name == split else _ignore, file, "")
            if content is None:
                continue
            names |= {label for shape in content["shapes"] if isinstance(label := _label(shape), str)}
            record = _record(root, pair, file, content, report, upright) if name == split else None
            if record is not None:
                records.append(record)
    return BoxFiles(tuple(sorted(names - {BACKGROUND, ""})), tuple(records))


def _ignore(problem: Problem) -> None:
    """A file at fault is reported by whoever reads its split."""


def _content(file: Path) -> dict[str, Any]:
    data = read_json(file)
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
        raise ValueError(f"{file}: expected a file of LabelMe with a list 'shapes', got {short(data)}")
    return data


def _label(shape: object) -> object:
    return shape.get("label") if isinstance(shape, dict) else None


def _record(
    root: Path, pair: FolderPair, file: Path, content: dict[str, Any], report: Report, upright: bool
) -> BoxRecord | None:
    image = _image(pair, file, content)
    if image is None:
        report(Problem(file, "imagePath", f"the image {short(content.get('imagePath'))} does not exist", True))
        return None
    size = attempt(partial(image_size, image, upright=upright), report, image, "")
    if size is None:
        return None
    stated = attempt(
        lambda: (fields.side(content, "imageHeight"), fields.side(content, "imageWidth")), report, file, "size"
    )
    # A size that the file states is compared with the image's when this is decoded.
    size = stated if stated is not None and all(stated) else size
    objects = []
    for number, shape in enumerate(content["shapes"]):
        entry = f"shape {number} ({str(_label(shape))[:60]})"
        if _label(shape) != BACKGROUND:
            objects.append(attempt_object(partial(_object, shape, entry, size), report, file, entry))
    return BoxRecord(relative_name(image, root), image, file, size, tuple(item for item in objects if item is not None))


def _image(pair: FolderPair, file: Path, content: dict[str, Any]) -> Path | None:
    """The image that the file names, else the one of its own name: files are often renamed together."""
    said = content.get("imagePath")
    name = posix(said).rsplit("/", 1)[-1] if isinstance(said, str) else ""
    inner = file.relative_to(pair.annotations).parent
    found = resolve(pair.images / inner, name) if name else None
    return found or image_of(pair.images, file.relative_to(pair.annotations).with_suffix("").as_posix())


def _object(shape: object, entry: str, size: tuple[int, int], clip: bool = False) -> BoxObject:
    if not isinstance(shape, dict):
        raise ValueError(f"expected a shape, got {short(shape)}")
    if shape.get("shape_type") == "mask":
        return _masked(shape, entry, size, clip)
    outline = _outline(shape.get("shape_type") or "polygon", _points(shape.get("points")))
    x1, y1, x2, y2 = (choose(outline[axis::2]) for choose in (min, max) for axis in (0, 1))
    # LabelMe lets corners pass the edge of the image; the image ends there for the object too.
    height, width = size
    if not clip and (x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0):
        raise OutsideError(f"expected a shape {fields.within(size)}, got {short(shape.get('points'))}")
    cut = tuple(min(max(v, 0.0), float(height if i % 2 else width)) for i, v in enumerate(outline))
    segmentation = [list(cut)]
    check_segmentation(segmentation, size)
    x1, y1, x2, y2 = (choose(cut[axis::2]) for choose in (min, max) for axis in (0, 1))
    name = fields.class_name(shape.get("label"))
    return BoxObject(entry, name, (x1, y1, x2, y2), False, segmentation, x2 <= x1 or y2 <= y1)


def _masked(shape: dict[str, Any], entry: str, size: tuple[int, int], clip: bool) -> BoxObject:
    """An object with a mask: a PNG in base64, between two pixels that both belong to it."""
    points = _points(shape.get("points"))
    if len(points) != 2:
        raise ValueError(f"expected {_POINTS['mask']} points of a mask, got {len(points)}")
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in points)
    inner = decode_index_image(_bytes(shape.get("mask")), "'mask'") != 0
    if tuple(inner.shape) != (bottom - top + 1, right - left + 1):
        raise ValueError(
            f"'mask': expected {right - left + 1}x{bottom - top + 1} pixels, as between its two points, got "
            f"{inner.shape[1]}x{inner.shape[0]}"
        )
    height, width = size
    x1, x2 = (min(max(x, 0), width) for x in (left, right + 1))
    y1, y2 = (min(max(y, 0), height) for y in (top, bottom + 1))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y1:y2, x1:x2] = inner[y1 - top : y2 - top, x1 - left : x2 - left]
    seen = bool(mask.any())
    if not seen and not (clip and inner.any()):
        error = OutsideError if inner.any() else ValueError
        raise error(f"'mask': expected a pixel or more {fields.within(size)}, got none at {short(shape['points'])}")
    (x1, x2), (y1, y2) = (_extent(mask.any(axis)) for axis in (0, 1)) if seen else ((x1, x1), (y1, y1))
    name = fields.class_name(shape.get("label"))
    return BoxObject(entry, name, (x1, y1, x2, y2), False, mask_runs(mask), not seen)


def _extent(taken: Tensor) -> tuple[int, int]:
    """The first index and the one behind the last."""
    indices = taken.nonzero()
    return int(indices[0]), int(indices[-1]) + 1


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"'mask': expected a PNG in base64, got {short(text)}")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ValueError(f"'mask': expected a PNG in base64, got {short(text)}") from error


def _points(value: object) -> list[tuple[float, float]]:
    if not isinstance(value, list) or not all(isinstance(point, list) and len(point) == 2 for point in value):
        raise ValueError(f"'points': expected a list of [x, y], got {short(value)}")
    points = [(fields.number(x, "'points'"), fields.number(y, "'points'")) for x, y in value]
    if any(abs(v) > 1e9 for point in points for v in point):
        raise ValueError(f"'points': expected positions in pixels, got {short(value)}")
    return points


def _outline(kind: object, points: Sequence[tuple[float, float]]) -> list[float]:
    """The corners ``[x1, y1, x2, y2, ...]`` of a shape."""
    if kind == "polygon" and len(points) >= 3:
        return [v for point in points for v in point]
    if kind == "rectangle" and len(points) in (2, 4):  # version 6 writes four corners
        return rectangle([*points[0], *points[len(points) // 2]])
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points[0], points[1]
        radius = math.dist((x, y), edge)
        turns = (2 * math.pi * k / _CORNERS for k in range(_CORNERS))
        return [v for turn in turns for v in (x + radius * math.cos(turn), y + radius * math.sin(turn))]
    if kind in _POINTS:
        raise ValueError(f"expected {_POINTS[kind]} points of a {kind}, got {len(points)}")
    raise ValueError(f"'shape_type': expected polygon, rectangle, circle or mask, got {short(kind)}, which has no area")
