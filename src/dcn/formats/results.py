"""Detections from files: COCO result files, VOC result files (one a class) and text files (one an image).

Ids and names are looked up apart: a number is an id, a text is an id or a name, and what could be both is refused. All
that does not fit the annotations is an error naming file and entry.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dcn.formats import fields
from dcn.formats.annotations import Annotations
from dcn.formats.coco import entries, read_categories
from dcn.formats.documents import read_json, read_text
from dcn.formats.file_names import files_in, posix, safe_name
from dcn.formats.masks import mask_box, run_lengths
from dcn.formats.problems import refuse, short

Coordinates = Literal["auto", "voc", "continuous"]
IouType = Literal["bbox", "segm"]
_OTHER = "the results belong to other annotations, or to another split"


@dataclass(frozen=True)
class ResultRow:
    """One detection.

    Attributes:
        image: index into the images of the annotations.
        label: index into the classes of the `Results`.
        score: finite.
        xywh: ``[x, y, width, height]`` in continuous edges; for masks empty.
        segmentation: compressed run lengths; for boxes ``None``.
    """

    image: int
    label: int
    score: float
    xywh: tuple[float, ...] = ()
    segmentation: Any = None


@dataclass(frozen=True)
class Results:
    """Detections for the images of some annotations.

    Attributes:
        rows: in the order of the files.
        classes: those of the annotations, then those that only the results have.
    """

    rows: list[ResultRow]
    classes: tuple[str, ...]


class _Classes:
    """Labels by class name; a name that the annotations do not have becomes a class without objects."""

    def __init__(self, annotations: Annotations, closed: bool) -> None:
        self._path, self._closed, self._known = annotations.path, closed, len(annotations.classes)
        self._labels = {name: label for label, name in enumerate(annotations.classes)}
        self._used: Counter[int] = Counter()

    def label(self, name: str, where: str) -> int:
        """The label of a name.

        Raises:
            ValueError: the classes were given by the caller, and this is not among them.
        """
        if name not in self._labels:
            if self._closed:
                raise ValueError(f"{where}: expected a class that {self._path} knows, got {short(name)}; {_OTHER}")
            self._labels[name] = len(self._labels)
        self._used[self._labels[name]] += 1
        return self._labels[name]

    def names(self, where: Path) -> tuple[str, ...]:
        """All names by label.

        Raises:
            ValueError: not one class of the results is one of the annotations.
        """
        names = tuple(self._labels)
        unknown = [name for name in names[self._known :] if self._used[self._labels[name]]]
        if unknown and not any(label < self._known for label in self._used):
            raise ValueError(
                f"{where}: expected classes that {self._path} knows, got only others: {short(unknown)}; {_OTHER}"
            )
        if unknown:
            count = sum(self._used[self._labels[name]] for name in unknown)
            message = f"{count} detections are of classes without annotations: {', '.join(unknown[:5])}"
            warnings.warn(f"{where}: {message}", stacklevel=5)
        return names


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
    if path.is_dir():
        files = files_in(path, ".txt", below=True)
        if not files:
            raise ValueError(
                f"results: expected .txt files (VOC results, one a class or one an image) in {path}, got none"
            )
    elif not path.is_file():
        raise ValueError(f"results: expected a result file or folder, got {path}, which does not exist")
    elif path.suffix.lower() == ".txt":
        files = [path]
    else:
        return _read_coco(path, annotations, iou_type, coordinates, closed)
    if iou_type == "segm":
        raise ValueError(f"iou_type: expected 'bbox' for text results, which have no masks, got 'segm' with {path}")
    return _read_texts(path, files, annotations, coordinates != "continuous", closed)


# COCO


Lookup = Callable[[object, str], int]


def _read_coco(
    path: Path, annotations: Annotations, iou_type: IouType, coordinates: Coordinates, closed: bool
) -> Results:
    content = read_json(path)
    # A whole dataset as results names its images and classes itself. Converters from VOC copy xmin and ymin as they are
    # and take xmax - xmin for the width; a plain list, as detectors write it, is in continuous edges.
    whole = isinstance(content, dict) and "images" in content and "categories" in content
    items = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(items, list):
        given = content if items is None else items
        raise ValueError(f"{path}: expected a list of detections, got {short(given)}; is this a COCO result file?")
    inclusive = coordinates == "voc" or (coordinates == "auto" and whole and annotations.is_voc)
    classes = _Classes(annotations, closed)
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


def _image_of_annotations(annotations: Annotations) -> Lookup:
    """How the entries of a plain list name an image: a number is an id, a text an id or a file name."""

    def find(value: object, where: str) -> int:
        """The index that an id or a name of the file stands for."""
        by_id = annotations.by_id(fields.identifier(value, where))
        named = annotations.by_name(value) if isinstance(value, str) else []
        choices = sorted({*([] if by_id is None else [by_id]), *named})
        return _only(choices, value, where, annotations)

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
            raise ValueError(f"{where}: expected one that {annotations.path} knows, got {short(value)}; {_OTHER}")
        return choices[0]

    return find


def _only(choices: Sequence[int], value: object, where: str, annotations: Annotations) -> int:
    """The one image that is meant.

    Raises:
        ValueError: none or several.
    """
    if len(choices) == 1:
        return choices[0]
    if not choices:
        raise ValueError(f"{where}: expected one that {annotations.path} knows, got {short(value)}; {_OTHER}")
    names = ", ".join(annotations.images[n].name or str(annotations.images[n].id) for n in choices[:3])
    raise ValueError(
        f"{where}: expected the id or name of one image, got {short(value)}, which could be any of {names}; write ids "
        "as numbers, or names with folders"
    )


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
        index = _only(choices, name or key, f"{path}: {where}", annotations)
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
            return _only([], unknown[key], where, annotations)
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


def _own_categories(content: dict[str, Any], path: Path, classes: _Classes) -> Lookup:
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
    return tuple(_edges(x, y, x + w, y + h) if inclusive else (x, y, w, h)), None


def _mask(entry: dict[str, Any], size: tuple[int, int] | None) -> tuple[tuple[float, ...], Any]:
    return (), _runs(fields.field(entry, "segmentation"), size)


def _runs(segmentation: object, size: tuple[int, int] | None) -> Any:
    if size is None:
        raise ValueError("'segmentation': the size of the image is not known; add height and width to the annotations")
    return run_lengths(segmentation, size)


def _edges(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """``[x, y, width, height]`` with continuous edges of VOC's 1-based inclusive corners."""
    if x2 < x1 - 1 or y2 < y1 - 1:
        raise ValueError(f"expected xmin <= xmax and ymin <= ymax, got {x1:g} {y1:g} {x2:g} {y2:g}")
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]


# Texts


@dataclass(frozen=True)
class _Line:
    """``name score x1 y1 x2 y2``."""

    where: str
    name: str
    score: float
    corners: list[float]


def _read_texts(root: Path, files: list[Path], annotations: Annotations, inclusive: bool, closed: bool) -> Results:
    """Text files, each about one class (lines start with the image) or one image (lines start with the class)."""
    classes = _Classes(annotations, closed or not annotations.is_voc)
    contents = {file: _lines(file) for file in files}
    images = {file: _image_of_file(file, root, contents[file], annotations) for file in files}
    class_files = _class_of_files([file for file, image in images.items() if image is None], annotations, closed)
    named = [line for file, image in images.items() if image is not None for line in contents[file]]
    class_of_line = _class_of_line(named, annotations, classes)
    rows = []
    for file in files:
        image, name = images[file], class_files.get(file)
        if image is None and name is None:
            raise ValueError(
                f"{file}: expected a file named <image>.txt or ..._<class>.txt, got {file.stem!r}, which is neither an "
                f"image nor ends in a class of {annotations.path}"
            )
        for line in contents[file]:
            box = _text_box(line, inclusive)
            if image is not None:
                rows.append(ResultRow(image, class_of_line(line), line.score, box))
            else:
                index = _image_of_name(line.name, f"{line.where}: image", annotations)
                rows.append(ResultRow(index, classes.label(name or "", line.where), line.score, box))
    return Results(rows, classes.names(root))


def _lines(path: Path) -> list[_Line]:
    text = read_text(path, "result file")
    return [_split_line(line, f"{path}: line {number}", text.note) for number, line in text.lines()]


def _split_line(line: str, where: str, note: str) -> _Line:
    """The name may hold blanks: the last five words are numbers."""
    words = line.split()
    try:
        score, *corners = (fields.number(float(word), "number") for word in words[-5:])
        if len(words) < 6:
            raise ValueError(f"expected six words or more, got {len(words)}")
    except ValueError as error:
        raise ValueError(
            f"{where}: expected 'name score x1 y1 x2 y2' with finite numbers, got {short(line)}{note}"
        ) from error
    return _Line(where, " ".join(words[:-5]), score, corners)


def _text_box(line: _Line, inclusive: bool) -> tuple[float, ...]:
    x1, y1, x2, y2 = line.corners
    try:
        return tuple(fields.box_xywh(_edges(x1, y1, x2, y2) if inclusive else [x1, y1, x2 - x1, y2 - y1]))
    except ValueError as error:
        raise ValueError(f"{line.where}: {error}") from error


def _image_of_file(file: Path, root: Path, lines: list[_Line], annotations: Annotations) -> int | None:
    """The image that a file is about, if its name is one and not that of a class."""
    relative = file.relative_to(root) if root.is_dir() else Path(file.name)
    name = relative.with_suffix("").as_posix()
    if not (choices := _named(name, annotations)):
        return None
    if _class_of_file(file.stem, annotations.classes) is not None:
        # An image called like a class: the first words of the lines tell.
        are_images = all(_named(line.name, annotations) for line in lines)
        are_classes = all(line.name in annotations.classes or line.name.isdigit() for line in lines)
        if are_images and not are_classes:
            return None
        if are_images and lines:
            raise ValueError(f"{file}: expected the name of an image or of a class, got {file.stem!r}, which is both")
    return _only(choices, file.name, str(file), annotations)


def _named(name: str, annotations: Annotations) -> list[int]:
    """The images that a text file means by a name: those of that file name or stem, else that of that id."""
    if choices := annotations.by_name(name):
        return choices
    by_id = annotations.by_id(fields.identifier(name, "image")) if name else None
    return [] if by_id is None else [by_id]


def _image_of_name(name: str, where: str, annotations: Annotations) -> int:
    return _only(_named(name, annotations), name, where, annotations)


def _class_of_file(stem: str, classes: Sequence[str]) -> str | None:
    """``comp4_det_test_dog`` (any name ending in _<class>, or <class> alone): the longest class that fits."""
    spelled = {name: safe_name(name.replace("/", "_")) for name in classes}
    fitting = [
        name for name, text in spelled.items() if stem in (name, text) or stem.endswith((f"_{name}", f"_{text}"))
    ]
    return max(fitting, key=len) if fitting else None


def _class_of_files(files: list[Path], annotations: Annotations, closed: bool) -> dict[Path, str]:
    """The class of each file; what other files begin with tells the name of a class without annotations."""
    known = {file: name for file in files if (name := _class_of_file(file.stem, annotations.classes)) is not None}
    starts = {file.stem[: len(file.stem) - len(safe_name(name.replace("/", "_")))] for file, name in known.items()}
    if closed or not annotations.is_voc:
        return known
    for file in files:
        ends = [file.stem[len(start) :] for start in starts if start and file.stem.startswith(start)]
        if file not in known and ends and min(ends, key=len):
            known[file] = min(ends, key=len)
    return known


def _class_of_line(lines: Sequence[_Line], annotations: Annotations, classes: _Classes) -> Callable[[_Line], int]:
    """How lines of ``<image>.txt`` name their class: by name, or by index from 0. All lines together decide.

    Raises:
        ValueError: digits that are names of some classes and indices of others.
    """
    count = len(annotations.classes)
    words = {line.name for line in lines}
    all_names = words <= set(annotations.classes)
    all_indices = all(word.isdecimal() and int(word) < count for word in words)
    differ = [word for word in words if all_names and all_indices and annotations.classes[int(word)] != word]
    if differ:
        raise ValueError(
            f"{lines[0].where}: expected class names that are not numbers, got {sorted(differ)[0]!r}, the name of one "
            "class and the index of another; use a COCO result file"
        )

    by_index = all_indices and not all_names

    def find(line: _Line) -> int:
        """The label that the name or index of a line stands for."""
        is_index = line.name.isdecimal() and (by_index or line.name not in annotations.classes)
        if not is_index and (line.name in annotations.classes or annotations.is_voc):
            return classes.label(line.name, line.where)
        if not is_index or int(line.name) >= count:
            raise ValueError(f"{line.where}: expected a class name or an index 0..{count - 1}, got {short(line.name)}")
        return classes.label(annotations.classes[int(line.name)], line.where)

    return find
