"""What a folder without a known layout nearly is, in a sentence: the next step for whoever gave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dcn.data.datasets import masks
from dcn.data.format import Table
from dcn.formats import csv_boxes, yolo
from dcn.formats.documents import read_xml
from dcn.formats.file_names import files_in, image_files, is_hidden
from dcn.formats.layouts import folder_pairs
from dcn.formats.mask_folders import without_match

_MOST = 20  # folders that are looked into


def hint(table: Table, root: Path) -> str | None:
    """What a folder nearly is, which looks like no format; ``None`` where it is like none.

    Args:
        table: the formats.
        root: an existing folder.
    """
    looks: tuple[Callable[[], str | None], ...] = (
        lambda: _inner(table, root),
        lambda: _csv(root),
        lambda: _yolo(root),
        lambda: _masks(root),
        lambda: _xml(root),
    )
    return next((text for look in looks if (text := look()) is not None), None)


def _folders(root: Path) -> Iterator[Path]:
    yield from sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path))[:_MOST]


def _inner(table: Table, root: Path) -> str | None:
    """A folder inside of it, as archives have it."""
    for folder in _folders(root):
        for name, row in table.items():
            if row.recognisable and row.splits is not None and row.splits(folder):
                return f"the folder {folder.name!r} inside of it looks like {name}: give {folder}"
    return None


def _csv(root: Path) -> str | None:
    files = [*files_in(root, ".csv"), *(file for folder in _folders(root) for file in files_in(folder, ".csv"))]
    return next((problem for file in files[:_MOST] if (problem := csv_boxes.problem_of(file)) is not None), None)


def _yolo(root: Path) -> str | None:
    if yolo.description(root) is None and folder_pairs(root, ("labels", "Labels"), ".txt"):
        return (
            "it has images with text files as YOLO writes them, but nothing names the classes: write their names in "
            f"the order of their numbers, one a line, into {root / 'classes.txt'}"
        )
    return None


def _masks(root: Path) -> str | None:
    problem = masks.first_problem(root)
    if problem is not None:
        return f"its masks cannot be read: {problem}"
    pair = without_match(root) if root.is_dir() else None
    images = image_files(pair.images, below=True) if pair is not None else []
    if pair is None or not images:
        return None
    mask = image_files(pair.annotations, below=True)[0]
    return (
        f"no mask in {pair.annotations} has the name of an image in {pair.images} ({images[0].name}, {mask.name}); a "
        "mask has the name of its image, with or without an ending such as _mask; or describe both in dataset.yaml"
    )


def _xml(root: Path) -> str | None:
    for file in files_in(root, ".xml", below=True)[:1]:
        try:
            read_xml(file, "annotation")
        except ValueError as error:
            return f"{error}; expected XML files of Pascal VOC"
        name = file.relative_to(root)
        return f"{name} is an annotation of Pascal VOC, but no image of its name lies beside it or in images/"
    return None


def what_it_holds(root: Path) -> str:
    """What there is to say about images alone."""
    images = image_files(root, below=True)
    if not images:
        return "it holds no image"
    deep = {image.parent for image in images} - {root}
    if len(deep) > 1:
        names = ", ".join(sorted(folder.name for folder in deep)[:5])
        return (
            f"it holds {len(images)} images in folders ({names}) and no annotation; names of folders say what is in an "
            "image, but a detector needs boxes and a segmentation model masks; where a folder holds masks, a file "
            "dataset.yaml says which"
        )
    return f"it holds {len(images)} images and no annotation (XML, JSON, TXT, CSV or masks) of a form that is known"
