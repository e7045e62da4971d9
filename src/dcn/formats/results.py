"""Detections from files: COCO result files, VOC result files (one a class) and text files (one an image).

Ids and names are looked up apart: a number is an id, a text is an id or a name, and what could be both is refused. All
that does not fit the annotations is an error naming file and entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dcn.formats import fields
from dcn.formats.annotations import Annotations
from dcn.formats.coco import entries, read_categories
from dcn.formats.documents import read_json, read_text
from dcn.formats.file_names import files_in, posix
from dcn.formats.masks import mask_box, run_lengths
from dcn.formats.problems import refuse, short
from dcn.formats.result_rows import (
    NO_SIZE,
    OTHER,
    Classes,
    Coordinates,
    IouType,
    ResultRow,
    Results,
    edges_of,
    only_image,
)
from dcn.formats.result_texts import read_texts

PREDICTED = "detections.json"
"""What ``dcn predict`` calls its file in a folder."""


def read_results(
    path: Path, annotations: Annotations, iou_type: IouType, coordinates: Coordinates, *, closed: bool = False
) -> Results:
    """Read a result file or folder.

    Args:
        path: the file or folder.
        annotations: what the results are for.
        iou_type: which shape of the results is needed.
        coordinates: as in `dcn.metrics.evaluate_files`.
        closed: the classes are complete: a name that is not among them is an error.

    Raises:
        ValueError: nothing there, or a problem in a file.
    """
    files = find_results(path)
    if files[0].suffix.lower() == ".txt":
        return read_texts(path, files, annotations, iou_type, coordinates, closed)
    return _read_coco(files[0], annotations, iou_type, coordinates, closed)


def find_results(path: Path) -> list[Path]:
    """The files of results: text files, or one of another kind.

    Raises:
        ValueError: there is none.
    """
    if not path.exists():
        raise ValueError(f"results: expected a result file or folder, got {path}, which does not exist")
    if not path.is_dir():
        return [path]
    if (path / PREDICTED).is_file():
        return [path / PREDICTED]
    files = files_in(path, ".txt", below=True)
    if not files:
        raise ValueError(
            f"results: expected {PREDICTED} of `dcn predict`, or .txt files (one a class or one an image), in {path}, "
            "got neither"
        )
    return files


Lookup = Callable[[object, str], int]


def _read_coco(
    path: Path, annotations: Annotations, iou_type: IouType, coordinates: Coordinates, closed: bool
) -> Results:
    content = _read_stream(path, annotations.classes) if path.suffix.lower() == ".jsonl" else read_json(path)
    # A whole dataset as results names its images and classes itself. Converters from VOC copy xmin and ymin as they are
    # and take xmax - xmin for the width; a plain list, as detectors write it, is in continuous edges.
    whole = isinstance(content, dict) and "images" in content and "categories" in content
    items = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(items, list):
        given = content if items is None else items
        raise ValueError(f"{path}: expected a list of detections, got {short(given)}; is this a COCO result file?")
    inclusive = coordinates == "voc" or (coordinates == "auto" and whole and annotations.is_voc)
    classes = Classes(annotations, closed)
    if whole:
        image, category = _own_images(content, path, annotations), _own_categories(content, path, classes)
    else:
        image, category = _image_of_annotations(annotations), _category_of_annotations(annotations)
    rows = []
    for number, entry in enumerate(items):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object with image_id, category_id, score, got {short(entry)}")
        try:
            key, kind = fields.field(entry, "image_id"), fields.field(entry, "category_id")
            score = fields.number(fields.field(entry, "score"), "score")
            index, label = image(key, "image_id"), category(kind, "category_id")
            size = annotations.images[index].size
            shape = _mask(entry, size) if iou_type == "segm" else _box(entry, size, inclusive)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        rows.append(ResultRow(index, label, score, *shape))
    return Results(rows, classes.names(path) if whole else annotations.classes)


def _read_stream(path: Path, classes: Sequence[str]) -> dict[str, Any]:
    """The lines that ``dcn predict`` writes for each image, as a whole dataset."""
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    categories = {name: label for label, name in enumerate(classes, start=1)}
    for number, line in read_text(path, "result file").lines():
        where = f"{path}: line {number}"
        try:
            image = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: malformed JSON ({error})") from error
        if not isinstance(image, dict) or not isinstance(image.get("annotations"), list):
            raise ValueError(f"{where}: expected an object with file_name and annotations, got {short(image)}")
        images.append({**image, "id": number})
        for entry in image["annotations"]:
            if not isinstance(entry, dict) or not isinstance(entry.get("category"), str):
                raise ValueError(f"{where}: expected an object with the name of its 'category', got {short(entry)}")
            label = categories.setdefault(entry["category"], len(categories) + 1)
            rows.append({**entry, "image_id": number, "category_id": label})
    names = [{"id": label, "name": name} for name, label in categories.items()]
    return {"images": images, "annotations": rows, "categories": names}


def _image_of_annotations(annotations: Annotations) -> Lookup:
    """How the entries of a plain list name an image: a number is an id, a text an id or a file name."""

    def find(value: object, where: str) -> int:
        """The index that an id or a name of the file stands for."""
        by_id = annotations.by_id(fields.identifier(value, where))
        named = annotations.by_name(value) if isinstance(value, str) else []
        choices = sorted({*([] if by_id is None else [by_id]), *named})
        return only_image(choices, value, where, annotations)

    return find


def _category_of_annotations(annotations: Annotations) -> Lookup:
    """How the entries of a plain list name a class: a number is an id, a text an id or a name."""

    def find(value: object, where: str) -> int:
        """The index that an id or a name of the file stands for."""
        by_id = annotations.labels.get(fields.identifier(value, where))
        named = annotations.classes.index(value) if value in annotations.classes else None
        choices = sorted({label for label in (by_id, named) if label is not None})
        if len(choices) > 1:
            raise ValueError(
                f"{where}: {short(value)} is the id of class {short(annotations.classes[choices[0]])} or of "
                f"{short(annotations.classes[choices[1]])} and a name; write ids as numbers"
            )
        if not choices:
            raise ValueError(f"{where}: expected one that {annotations.path} knows, got {short(value)}; {OTHER}")
        return choices[0]

    return find


def _own_images(content: dict[str, Any], path: Path, annotations: Annotations) -> Lookup:
    """How the entries of a whole dataset name an image: through its own table, by file name."""
    table: dict[fields.Identifier, int] = {}
    unknown: dict[fields.Identifier, str] = {}
    taken: dict[int, str] = {}
    for where, entry, key in entries(content, "images", path, refuse):
        name = entry.get("file_name") or ""
        if not isinstance(name, str):
            raise ValueError(f"{path}: {where}: 'file_name': expected a text, got {short(name)}")
        if name:
            choices = annotations.by_name(name)
        else:
            by_id = annotations.by_id(key)
            choices = [] if by_id is None else [by_id]
        if not choices:
            unknown[key] = name or str(key)
            continue
        index = only_image(choices, name or key, f"{path}: {where}", annotations)
        if index in taken:
            raise ValueError(
                f"{path}: {where}: expected one image for each of {annotations.path}, got {taken[index]} and "
                f"{posix(name)} for {annotations.images[index].name}"
            )
        taken[index] = posix(name)
        table[key] = index
        _same_size(entry, annotations, index, f"{path}: {where}")

    def find(value: object, where: str) -> int:
        """The index that an id or a name of the file stands for."""
        key = fields.identifier(value, where)
        if key in unknown:
            return only_image([], unknown[key], where, annotations)
        if key not in table:
            raise ValueError(f"{where}: expected an id of the file's own 'images', got {short(value)}")
        return table[key]

    return find


def _same_size(entry: dict[str, Any], annotations: Annotations, index: int, where: str) -> None:
    """Detections in pixels of another size, or of the turned photo, would be scored without a word."""
    size = (fields.side(entry, "height"), fields.side(entry, "width"))
    annotated = annotations.images[index].size
    if min(size) > 0 and annotated is not None and size != annotated:
        swapped = "; width and height are exchanged" if size == annotated[::-1] else ""
        raise ValueError(
            f"{where}: expected results for {annotated[1]}x{annotated[0]} pixels, as {annotations.path} says, got "
            f"{size[1]}x{size[0]}{swapped}"
        )


def _own_categories(content: dict[str, Any], path: Path, classes: Classes) -> Lookup:
    """How the entries of a whole dataset name a class: through its own table, by name."""
    names = read_categories(content, path, refuse)

    def find(value: object, where: str) -> int:
        """The index that an id or a name of the file stands for."""
        key = fields.identifier(value, where)
        if key not in names:
            raise ValueError(f"{where}: expected a category_id of the file's own 'categories', got {short(value)}")
        return classes.label(names[key], where)

    return find


def _box(entry: dict[str, Any], size: tuple[int, int] | None, inclusive: bool) -> tuple[tuple[float, ...], None]:
    if not entry.get("bbox") and entry.get("segmentation"):
        return tuple(mask_box(_runs(entry["segmentation"], size))), None
    x, y, w, h = fields.box_xywh(fields.field(entry, "bbox"))
    return tuple(edges_of(x, y, x + w, y + h) if inclusive else (x, y, w, h)), None


def _mask(entry: dict[str, Any], size: tuple[int, int] | None) -> tuple[tuple[float, ...], Any]:
    return (), _runs(fields.field(entry, "segmentation"), size)


def _runs(segmentation: object, size: tuple[int, int] | None) -> Any:
    if size is None:
        raise ValueError(f"'segmentation': {NO_SIZE}")
    return run_lengths(segmentation, size)
