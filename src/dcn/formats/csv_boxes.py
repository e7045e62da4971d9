"""Boxes in CSV files: ``file, x1, y1, x2, y2, class`` in pixels, with or without a line that names the columns.

With names, width and height of the box may stand in place of ``x2`` and ``y2`` (``bbox_x``, ``bbox_width``, ...).
Corners are continuous edges, as they are written. A line with a file and nothing else is an image without objects.
``classes.csv`` or ``classes.txt``, with a name a line, fixes the order of the classes; otherwise they are sorted.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from dcn.formats import fields
from dcn.formats.documents import read_name_lines
from dcn.formats.file_names import SUFFIXES, files_in, image_of, posix, resolve
from dcn.formats.images import image_size
from dcn.formats.layouts import IMAGE_FOLDERS, WHOLE, unknown_split
from dcn.formats.problems import Problem, Report, attempt, attempt_object, short
from dcn.formats.records import BoxFiles, BoxObject, BoxRecord, relative_name

_COLUMNS = {
    "file": (
        "file",
        "filename",
        "file_name",
        "image",
        "image_path",
        "img_path",
        "path",
        "image_name",
        "img",
        "image_id",
    ),
    "x1": ("x1", "xmin", "x_min", "left"),
    "y1": ("y1", "ymin", "y_min", "top"),
    "x2": ("x2", "xmax", "x_max", "right"),
    "y2": ("y2", "ymax", "y_max", "bottom"),
    "class": ("class", "class_name", "label", "label_name", "name", "category"),
}
# Where there is no x2: a corner and the sides of the box. Plain `width` is the image's if there is an x2.
_SIDES = {
    **_COLUMNS,
    "x1": (*_COLUMNS["x1"], "x", "bbox_x", "box_x"),
    "y1": (*_COLUMNS["y1"], "y", "bbox_y", "box_y"),
    "x2": ("bbox_width", "box_width", "bbox_w", "w", "width"),
    "y2": ("bbox_height", "box_height", "bbox_h", "h", "height"),
}
_ORDER = tuple(_COLUMNS)
_NAME_FILES = ("classes.csv", "classes.txt")


@dataclass(frozen=True)
class _Table:
    """The rows of a file: ``(line number, cells in the order of _ORDER)``; ``sides``: width and height for x2, y2."""

    sides: bool
    rows: tuple[tuple[int, tuple[str, ...]], ...]


@lru_cache(maxsize=32)
def _read_table(file: Path, _changed: int) -> _Table:
    text = read_name_lines(file, "CSV file")
    if not text:
        raise ValueError(f"{file}: expected lines 'file,x1,y1,x2,y2,class', got none")
    separator = max(",;\t", key=text[0][1].count)
    try:
        cells = [(number, next(csv.reader([line], delimiter=separator))) for number, line in text]
    except (csv.Error, StopIteration) as error:
        raise ValueError(f"{file}: malformed CSV ({error})") from error
    header = [cell.strip().lower() for cell in cells[0][1]]
    positions = _positions(header, _COLUMNS)
    sides = min(positions) < 0 and min(_positions(header, _SIDES)) >= 0
    if sides:
        positions = _positions(header, _SIDES)
    if min(positions) >= 0:
        cells = cells[1:]
    elif _looks_like_row(cells[0][1]):
        positions = list(range(6))
    else:
        raise ValueError(
            f"{file}: expected columns {', '.join(_ORDER)} or lines 'file,x1,y1,x2,y2,class', got {short(text[0][1])}"
        )
    return _Table(
        sides,
        tuple((number, tuple(row[p].strip() if p < len(row) else "" for p in positions)) for number, row in cells),
    )


def _positions(header: Sequence[str], columns: Mapping[str, Sequence[str]]) -> list[int]:
    """Where each column is; -1 for one that is missing."""
    return [next((header.index(name) for name in names if name in header), -1) for names in columns.values()]


def _looks_like_row(cells: Sequence[str]) -> bool:
    image = bool(cells) and posix(cells[0]).lower().strip().endswith(SUFFIXES)
    return image and (len(cells) >= 6 or not any(cell.strip() for cell in cells[1:]))


def _table(file: Path) -> _Table:
    return _read_table(file, file.stat().st_mtime_ns)


def problem_of(file: Path) -> str | None:
    """Why a file holds no boxes."""
    try:
        _table(file)
    except ValueError as error:
        return str(error)
    return None


def available_splits(root: Path) -> dict[str, Path]:
    """The CSV files of boxes by the name of their split: ``train.csv``, ``train/_annotations.csv``; one alone: all."""
    if not root.is_dir():
        return {}
    files = {file.stem: file for file in files_in(root, ".csv") if file.name not in _NAME_FILES}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        inner = files_in(folder, ".csv")
        if len(inner) == 1:
            files.setdefault(folder.name, inner[0])
    kept = {
        name: file
        for name, file in files.items()
        if attempt(partial(_table, file), lambda problem: None, file, "") is not None
    }
    if len(kept) == 1 and not next(iter(kept)).lower().startswith(("train", "val", "test")):
        return {WHOLE: next(iter(kept.values()))}
    return kept


def read_split(root: Path, split: str, report: Report, *, upright: bool = False) -> BoxFiles:
    """The images of a split, several joined with ``+``, each image once, in the order of the file.

    Raises:
        ValueError: there is no such split, whatever ``report`` does.
    """
    splits = available_splits(root)
    records: list[BoxRecord] = []
    for part in split.split("+"):
        if part not in splits:
            raise unknown_split(part, splits, root, "a CSV file")
        records += _read_file(root, splits[part], report, upright)
    return BoxFiles(_classes(root, splits), tuple(records))


def _classes(root: Path, splits: dict[str, Path]) -> tuple[str, ...]:
    for file in (root / name for name in _NAME_FILES if (root / name).is_file()):
        names = [line.split(",")[0].strip() for _, line in read_name_lines(file, "list of classes")]
        return tuple(dict.fromkeys(name for name in names if name))
    return tuple(sorted({cells[5] for file in splits.values() for _, cells in _table(file).rows} - {""}))


def _read_file(root: Path, file: Path, report: Report, upright: bool) -> list[BoxRecord]:
    by_image: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    table = _table(file)
    for number, cells in table.rows:
        if cells[0]:
            by_image.setdefault(cells[0], []).append((number, cells))
        else:
            report(Problem(file, f"line {number}", "expected the name of an image in the first column, got nothing"))
    records, folders = [], _folders(root, file)
    for name, rows in by_image.items():
        image = _image(folders, name)
        if image is None:
            report(Problem(file, f"line {rows[0][0]}", f"the image {short(name)} does not exist", True))
            continue
        size = attempt(partial(image_size, image, upright=upright), report, image, "")
        if size is None:
            continue
        objects = []
        for number, cells in rows:
            if any(cells[1:]):
                entry = f"line {number}"
                read = partial(_object, cells, entry, size, table.sides)
                objects.append(attempt_object(read, report, file, entry))
        kept = tuple(item for item in objects if item is not None)
        records.append(BoxRecord(relative_name(image, root), image, file, size, kept))
    return records


def _folders(root: Path, file: Path) -> list[Path]:
    """Where the images of a file may be: ``train_labels.csv`` stands beside ``images/train`` too."""
    named = (*(root / folder for folder in (*IMAGE_FOLDERS, file.stem)), file.parent / "images")
    folders = [folder for folder in (file.parent, root, *named) if folder.is_dir()]
    inner = sorted(path for folder in folders for path in folder.iterdir() if path.is_dir())
    return list(dict.fromkeys([*folders, *(path for path in inner if file.stem.lower().startswith(path.name.lower()))]))


def _image(folders: Sequence[Path], name: str) -> Path | None:
    """The image that a cell names, perhaps without its ending: paths of other machines are cut to what exists."""
    parts = [part for part in posix(name).split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        for folder in folders:
            rest = "/".join(parts[start:])
            image = resolve(folder, rest) or (None if rest.lower().endswith(SUFFIXES) else image_of(folder, rest))
            if image is not None:
                return image
    return None


def _object(cells: tuple[str, ...], entry: str, size: tuple[int, int], sides: bool, clip: bool = False) -> BoxObject:
    try:
        x1, y1, x2, y2 = (float(cell) for cell in cells[1:5])
    except ValueError as error:
        raise ValueError(f"expected four numbers x1, y1, x2, y2, got {short(list(cells[1:5]))}") from error
    if sides:
        x2, y2 = x1 + x2, y1 + y2
    if not all(math.isfinite(v) and abs(v) < 1e9 for v in (x1, y1, x2, y2)):
        raise ValueError(f"expected four finite numbers x1, y1, x2, y2, got {short(list(cells[1:5]))}")
    if x2 < x1 or y2 < y1:
        raise ValueError(f"expected x1 <= x2 and y1 <= y2, got the reversed box ({x1:g}, {y1:g}, {x2:g}, {y2:g})")
    if not cells[5]:
        raise ValueError("expected a class in the sixth cell, got an empty cell")
    x, y, w, h = fields.inside([x1, y1, x2 - x1, y2 - y1], size, clip)
    return BoxObject(f"{entry} ({cells[5][:60]})", cells[5], (x, y, x + w, y + h), False, None, w <= 0 or h <= 0)
