"""Reads detections from files: COCO result files, VOC result files (one a class) and text files (one an image).

Each becomes rows in COCO's form with the numbers of the annotations. Whatever does not fit the annotations is an
error naming file and entry.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dcn.metrics.coco import IouType, Row
from dcn.metrics.truth_files import (
    Truth,
    box_xywh,
    edges_from_inclusive,
    field,
    image_names,
    load_json,
    number,
    table,
)

Coordinates = Literal["auto", "voc", "continuous"]
Lookup = Callable[[object, str], int]


def read_results(path: Path, truth: Truth, iou_type: IouType, coordinates: Coordinates) -> list[Row]:
    """Read a result file or folder; arguments as in `dcn.metrics.evaluate_files`.

    Returns:
        Rows with ``image_id``, ``category_id`` (numbers of ``truth``), ``score``, ``bbox`` (x, y, width, height,
        continuous edges) for boxes, ``segmentation`` for masks.
    """
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise ValueError(f"results: expected .txt files (VOC results, one a class or one an image) in {path}")
    elif not path.is_file():
        raise ValueError(f"results: expected a result file or folder, found nothing at {path}")
    elif path.suffix == ".txt":
        files = [path]
    else:
        return _read_coco(path, truth, iou_type, coordinates)
    if iou_type == "segm":
        raise ValueError(f"iou_type: expected 'bbox' for text results, which have no masks, got 'segm' with {path}")
    return [row for file in files for row in _read_text(file, truth, coordinates != "continuous")]


def _read_coco(path: Path, truth: Truth, iou_type: IouType, coordinates: Coordinates) -> list[Row]:
    content = load_json(path)
    entries = content if isinstance(content, list) else table(content, "annotations", path)
    # A whole data set as results names its images and classes itself. Converters from VOC copy xmin and ymin as they
    # are and take xmax - xmin for the width; a plain list, as detectors write it, is in continuous edges.
    whole = isinstance(content, dict) and "images" in content and "categories" in content
    inclusive = coordinates == "voc" or (coordinates == "auto" and whole and truth.is_voc)
    image, category = _own_names(content, path, truth) if whole else _names_of_truth(truth)
    rows = []
    for i, entry in enumerate(entries):
        where = f"{path}: entry {i}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object with image_id, category_id, score, got {entry!r}")
        key: Row = {
            "image_id": image(field(entry, "image_id", where), where),
            "category_id": category(field(entry, "category_id", where), where),
            "score": number(field(entry, "score", where), f"{where}: score"),
        }
        size = truth.images[key["image_id"] - 1]
        shape = _mask(entry, size, where) if iou_type == "segm" else _box(entry, size, inclusive, where)
        rows.append({**key, **shape})
    return rows


def _names_of_truth(truth: Truth) -> tuple[Lookup, Lookup]:
    """How the entries of a plain list name image and class: by the annotations' own ids, or by name."""
    classes = {name: i for i, name in enumerate(truth.classes, start=1)}
    categories = {**classes, **truth.category_numbers}

    def image(key: object, where: str) -> int:
        return _find(str(key), truth.image_numbers, f"{where}: image_id", truth)

    def category(key: object, where: str) -> int:
        return _find(str(key), categories, f"{where}: category_id", truth)

    return image, category


def _own_names(content: object, path: Path, truth: Truth) -> tuple[Lookup, Lookup]:
    """How the entries of a whole data set name image and class: through its own tables, by file and class name."""
    by_name, by_class = _names_of_truth(truth)
    files = {str(row.get("id")): row for row in table(content, "images", path)}
    names = {str(row.get("id")): row for row in table(content, "categories", path)}

    def image(key: object, where: str) -> int:
        row = files.get(str(key))
        file = "" if row is None else str(row.get("file_name", ""))
        for name in image_names(file) if file else []:
            if name in truth.image_numbers:
                return truth.image_numbers[name]
        return by_name(file or key, where)

    def category(key: object, where: str) -> int:
        row = names.get(str(key))
        if row is None:
            raise ValueError(f"{where}: expected a category_id of the file's own 'categories', got {key!r}")
        return by_class(field(row, "name", f"{path}: category {key}"), where)

    return image, category


def _find(key: str, numbers: dict[str, int], where: str, truth: Truth) -> int:
    if key not in numbers:
        raise ValueError(
            f"{where}: expected one that {truth.path} knows, got {key!r}; "
            "the results belong to other annotations, or to another split"
        )
    return numbers[key]


def _box(entry: Row, size: Row, inclusive: bool, where: str) -> Row:
    if not entry.get("bbox") and entry.get("segmentation"):
        from hotcoco import mask

        return {"bbox": mask.to_bbox(_rle(entry["segmentation"], size, where)).tolist()}
    x, y, w, h = box_xywh(field(entry, "bbox", where), f"{where}: bbox")
    return {"bbox": edges_from_inclusive(x, y, x + w, y + h, where) if inclusive else [x, y, w, h]}


def _mask(entry: Row, size: Row, where: str) -> Row:
    return {"segmentation": _rle(field(entry, "segmentation", where), size, where)}


def _rle(value: object, size: Row, where: str) -> Row:
    """A run-length encoded mask of the size of its image; polygons are filled."""
    from hotcoco import mask

    height, width = size["height"], size["width"]
    if isinstance(value, list) and value and height and width:
        return mask.merge(mask.fr_py_objects(value, height, width))
    if not isinstance(value, dict) or not {"size", "counts"} <= value.keys():
        raise ValueError(f"{where}: segmentation: expected RLE (size, counts) or polygons, got {str(value)[:80]}")
    if height and width and list(value["size"]) != [height, width]:
        raise ValueError(f"{where}: segmentation: expected the image's size {[height, width]}, got {value['size']}")
    return mask.fr_py_objects(value, *value["size"]) if isinstance(value["counts"], list) else value


def _read_text(path: Path, truth: Truth, inclusive: bool) -> list[Row]:
    """One text file, about one class (lines start with the image) or one image (lines start with the class)."""
    image = truth.image_numbers.get(path.stem)
    label = _class_of_file(path.stem, truth.classes) if image is None else None
    if label is None and image is None:
        raise ValueError(
            f"{path}: expected a file named <image>.txt or ..._<class>.txt, "
            f"got {path.stem!r}, which is neither an image nor ends in a class of {truth.path}"
        )
    rows = []
    for i, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        name, score, corners = _split_line(line, f"{path}: line {i}")
        where = f"{path}: line {i}"
        x1, y1, x2, y2 = corners
        row: Row = {"score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        if inclusive:
            row["bbox"] = edges_from_inclusive(x1, y1, x2, y2, where)
        box_xywh(row["bbox"], where)
        row["image_id"] = image if label is None else _find(name, truth.image_numbers, f"{where}: image", truth)
        row["category_id"] = label if label is not None else _class_of_line(name, truth, where)
        rows.append(row)
    return rows


def _class_of_file(stem: str, classes: tuple[str, ...]) -> int | None:
    """``comp4_det_test_dog`` (any name ending in _<class>, or <class> alone): the longest class that fits."""
    fitting = [name for name in classes if stem == name or stem.endswith(f"_{name}")]
    return classes.index(max(fitting, key=len)) + 1 if fitting else None


def _class_of_line(name: str, truth: Truth, where: str) -> int:
    if name in truth.classes:
        return truth.classes.index(name) + 1
    if not name.isdigit() or int(name) >= len(truth.classes):
        raise ValueError(f"{where}: expected a class name or an index 0..{len(truth.classes) - 1}, got {name!r}")
    return int(name) + 1


def _split_line(line: str, where: str) -> tuple[str, float, list[float]]:
    """Name (it may contain blanks), score and corners of ``name score x1 y1 x2 y2``."""
    words = line.split()
    try:
        score, *corners = (number(float(word), where) for word in words[-5:])
        if len(words) < 6:
            raise ValueError
    except ValueError as error:
        raise ValueError(f"{where}: expected 'name score x1 y1 x2 y2' with finite numbers, got {line!r}") from error
    return " ".join(words[:-5]), score, corners
