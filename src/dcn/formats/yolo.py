"""YOLO text files: one line ``class x y width height`` an object, in shares of the image; or a polygon after the class.

``data.yaml`` names the classes and the folders of the splits, or text files that list their images; so does Darknet's
``obj.data``. Without them ``classes.txt`` names the classes. A folder ``images`` has its text files in the folder
``labels`` beside it. Images without a text file have no objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from dcn.class_names import check_class_names
from dcn.formats import fields
from dcn.formats.documents import read_name_lines, read_text, read_yaml
from dcn.formats.file_names import files_in, image_files, posix
from dcn.formats.images import image_size
from dcn.formats.layouts import FolderPair, folder_pairs, unknown_split
from dcn.formats.masks import cut_outline, extent
from dcn.formats.problems import Problem, Report, attempt, attempt_object, short
from dcn.formats.records import BoxFiles, BoxObject, BoxRecord, relative_name

NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "labels/classes.txt")
"""Files that name the classes, one a line, where there is no ``data.yaml``."""

_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_MOST_IMAGES = 1_000_000


def description(root: Path) -> Path | None:
    """The YAML file with the names of the classes: ``data.yaml``, or the only one that has ``names``."""
    for file in (root / "data.yaml", root / "data.yml", *files_in(root, (".yaml", ".yml"))):
        said = attempt(partial(read_yaml, file), lambda problem: None, file, "") if file.is_file() else None
        if isinstance(said, dict) and "names" in said:
            return file
    return None


@dataclass(frozen=True)
class ImageList:
    """A text file that lists the images of a split, a path a line."""

    file: Path


def available_splits(root: Path) -> dict[str, tuple[FolderPair | ImageList, ...]]:
    """The splits of a folder; empty where it is not in this layout (no names of classes, or no text files)."""
    file = description(root)
    said = _darknet(root) if file is None else read_yaml(file)
    named = {
        split: pairs for key, split in _KEYS.items() if (pairs := _sources_of(root, said.get(key), key)) is not None
    }
    if named:
        return named
    if file is None and _names_file(root) is None:
        return {}
    return {name: (pair,) for name, pair in folder_pairs(root, ("labels", "Labels"), ".txt").items()}


def _names_file(root: Path) -> Path | None:
    return next((root / name for name in NAME_FILES if (root / name).is_file()), None)


def _darknet(root: Path) -> dict[str, str]:
    """The lines ``key = value`` of Darknet's ``obj.data``, which CVAT writes; nothing where the names are missing."""
    file = root / "obj.data"
    if not file.is_file() or _names_file(root) is None:
        return {}
    lines = (line.partition("=") for _, line in read_text(file, "description of the data").lines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _sources_of(root: Path, value: object, key: str) -> tuple[FolderPair | ImageList, ...] | None:
    """The folders and lists that one key of ``data.yaml`` names; ``None`` where none of them is in ``root``."""
    names = value if isinstance(value, list) else [value]
    sources: list[FolderPair | ImageList] = []
    for name in names:
        if not isinstance(name, str) or not name:
            continue
        listed = _inside(root, name, Path.is_file) if name.lower().endswith(".txt") else None
        folder = _folder(root, name, key) if listed is None else None
        if listed is not None:
            sources.append(ImageList(listed))
        elif folder is not None:
            sources.append(FolderPair(folder, _labels_of(folder, root)))
    return tuple(sources) or None


def _inside(root: Path, name: str, exists: Callable[[Path], bool]) -> Path | None:
    """What a path means inside of ``root``: those of other machines and ``../`` are cut to what exists."""
    parts = [part for part in PurePosixPath(posix(name)).parts if part not in ("/", ".", "..")]
    for start in range(len(parts)):
        path = root.joinpath(*parts[start:])
        try:
            if exists(path):
                return path
        except (OSError, ValueError):  # a name too long, or with a zero in it
            return None
    return None


def _folder(root: Path, name: str, key: str) -> Path | None:
    """The folder of images inside of ``root`` that a description means, else the usual one of a split."""
    guesses = (root / key / "images", root / "images" / key)
    return _inside(root, name, Path.is_dir) or next((folder for folder in guesses if folder.is_dir()), None)


def _labels_of(images: Path, root: Path) -> Path:
    """The folder of labels: the last part ``images`` of the path becomes ``labels``."""
    parts = list(images.relative_to(root).parts)
    for index in reversed(range(len(parts))):
        if parts[index].lower() == "images":
            labels = root.joinpath(*parts[:index], "labels", *parts[index + 1 :])
            if labels.is_dir():
                return labels
    if (images / "images").is_dir():
        return images / "labels"
    return images


def read_names(root: Path) -> tuple[str, ...]:
    """The class names, in the order of their numbers.

    Raises:
        ValueError: they are missing or malformed, or a name stands twice.
    """
    file = description(root)
    if file is not None:
        names = _listed(read_yaml(file)["names"], file)
    else:
        file = _names_file(root)
        if file is None:
            raise ValueError(f"{root}: expected data.yaml or classes.txt with the class names, got neither")
        names = [text for _, text in read_name_lines(file, "list of classes")]
    try:
        return check_class_names(names)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _listed(names: object, file: Path) -> list[str]:
    """Names as a list, or as a mapping from numbers 0, 1, 2 ..."""
    if isinstance(names, Mapping):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise ValueError(f"{file}: names: expected the numbers 0 to {len(names) - 1}, got {short(list(names))}")
        names = [value for _, value in sorted(names.items(), key=lambda item: int(item[0]))]
    if not isinstance(names, list):
        raise ValueError(f"{file}: names: expected a list of names, got {short(names)}")
    return [str(name) if isinstance(name, (str, int)) else _refuse_name(name, file) for name in names]


def _refuse_name(name: object, file: Path) -> str:
    raise ValueError(f"{file}: names: expected texts, got {short(name)}")


def read_split(root: Path, split: str, report: Report, *, upright: bool = False) -> BoxFiles:
    """The images of a split, several joined with ``+``.

    Raises:
        ValueError: there is no such split or no names of classes, whatever ``report`` does.
    """
    classes, splits = read_names(root), available_splits(root)
    records: list[BoxRecord] = []
    for part in split.split("+"):
        if part not in splits:
            raise unknown_split(part, splits, root, "a folder of images and text files")
        for source in splits[part]:
            if isinstance(source, ImageList):
                records += _read_list(root, source, classes, report, upright)
            else:
                records += _read_pair(root, source, classes, report, upright)
    return BoxFiles(classes, tuple(records))


def _read_list(
    root: Path, source: ImageList, classes: tuple[str, ...], report: Report, upright: bool
) -> list[BoxRecord]:
    records = []
    for number, line in read_text(source.file, "list of images").lines():
        image = _inside(root, line, Path.is_file)
        if image is None:
            report(Problem(source.file, f"line {number}", f"the image {short(line)} does not exist", True))
            continue
        file = _labels_of(image.parent, root) / f"{image.stem}.txt"
        record = _record(root, image, file, classes, report, upright)
        records += [] if record is None else [record]
    return records


def _read_pair(
    root: Path, pair: FolderPair, classes: tuple[str, ...], report: Report, upright: bool
) -> list[BoxRecord]:
    images = pair.images / "images" if (pair.images / "images").is_dir() else pair.images
    pictures = image_files(images, below=not pair.side_by_side)[:_MOST_IMAGES]
    used: set[Path] = set()
    records = []
    for image in pictures:
        file = pair.annotations / image.relative_to(images).with_suffix(".txt")
        used.add(file)
        record = _record(root, image, file, classes, report, upright)
        records += [] if record is None else [record]
    for file in files_in(pair.annotations, ".txt", below=not pair.side_by_side):
        if file not in used and file.name not in {Path(name).name for name in NAME_FILES}:
            report(Problem(file, "", f"annotates an image that does not exist in {images}", True))
    return records


def _record(
    root: Path, image: Path, file: Path, classes: tuple[str, ...], report: Report, upright: bool
) -> BoxRecord | None:
    size = attempt(partial(image_size, image, upright=upright), report, image, "")
    if size is None:
        return None
    text = attempt(partial(read_text, file, "label file"), report, file, "") if file.is_file() else None
    objects = []
    for number, line in [] if text is None else text.lines():
        entry = f"line {number}"
        objects.append(attempt_object(partial(_object, line, entry, classes, size), report, file, entry))
    kept = tuple(item for item in objects if item is not None)
    return BoxRecord(relative_name(image, root), image, file if file.is_file() else image, size, kept)


def _object(line: str, entry: str, classes: tuple[str, ...], size: tuple[int, int], clip: bool = False) -> BoxObject:
    words = line.split()
    expected = "expected 'class x y width height' or 'class x1 y1 x2 y2 x3 y3 ...'"
    if len(words) < 5 or len(words) % 2 == 0:
        raise ValueError(f"{expected}, got {len(words)} values: {short(line)}")
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{expected}, got {short(line)}") from error
    if not all(math.isfinite(value) and abs(value) < 1e9 for value in values):
        raise ValueError(f"{expected} with finite numbers, got {short(line)}")
    label, shares = values[0], values[1:]
    if label != int(label) or not 0 <= label < len(classes):
        raise ValueError(f"expected a class from 0 to {len(classes) - 1}, got {words[0][:20]}")
    if any(not -1 <= share <= 2 for share in shares):
        raise ValueError(f"expected shares of the image, 0 to 1, got {short(line)}; are these pixels?")
    name, (height, width) = classes[int(label)], size
    points = [share * (height if index % 2 else width) for index, share in enumerate(shares)]
    outline: Any = None
    if len(shares) == 4:
        x, y, w, h = points
        box = [x - w / 2, y - h / 2, w, h]
    else:
        outline = [[min(max(v, 0.0), float(height if i % 2 else width)) for i, v in enumerate(points)]]
        outline = cut_outline([points], size) if clip else outline
        x1, y1, x2, y2 = extent(points)
        box = [x1, y1, x2 - x1, y2 - y1]
    x, y, w, h = fields.inside(fields.box_xywh(box), size, clip)
    return BoxObject(entry, name, (x, y, x + w, y + h), False, outline, w <= 0 or h <= 0)
