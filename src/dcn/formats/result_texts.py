"""Detections from text files: VOC result files (one a class), and files of one image in VOC's or in YOLO's form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dcn.formats import fields
from dcn.formats.annotations import Annotations
from dcn.formats.documents import read_text
from dcn.formats.file_names import safe_name
from dcn.formats.masks import extent, run_lengths
from dcn.formats.problems import short
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

_LARGEST_SHARE = 1.001
"""Shares pass 1 by rounding. No box in pixels, which are counted from 1, ends below it, but one of a single pixel."""
_IN_PIXELS = "name score x1 y1 x2 y2"


@dataclass(frozen=True)
class _Line:
    """One detection, not yet read: ``name score x1 y1 x2 y2`` in pixels, or in shares of the image ``class x y width
    height score`` or ``class x1 y1 x2 y2 x3 y3 ... score``."""

    where: str
    text: str
    note: str

    @cached_property
    def words(self) -> list[str]:
        """What blanks separate."""
        return self.text.split()

    @cached_property
    def name(self) -> str:
        """The class or image, in both forms; in pixels it may hold blanks: the last five words are numbers."""
        return self.words[0] if len(self.words) < 6 or self.shares is not None else " ".join(self.words[:-5])

    @cached_property
    def shares(self) -> list[float] | None:
        """The numbers after the index of a class, where all of them may be shares."""
        if len(self.words) < 5 or not self.words[0].isdecimal():
            return None
        try:
            numbers = [float(word) for word in self.words[1:]]
        except ValueError:
            return None
        return numbers if all(0 <= number <= _LARGEST_SHARE for number in numbers) else None

    def in_pixels(self, inclusive: bool) -> tuple[float, tuple[float, ...]]:
        """Score and box ``[x, y, width, height]``."""
        try:
            score, x1, y1, x2, y2 = (fields.number(float(word), "number") for word in self.words[-5:])
            if len(self.words) < 6:
                raise ValueError(f"expected six words or more, got {len(self.words)}")
        except ValueError as error:
            raise ValueError(
                f"{self.where}: expected '{_IN_PIXELS}' with finite numbers, got {short(self.text)}{self.note}"
            ) from error
        try:
            box = edges_of(x1, y1, x2, y2) if inclusive else [x1, y1, x2 - x1, y2 - y1]
            return score, tuple(fields.box_xywh(box))
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from error

    def in_shares(self, size: tuple[int, int] | None) -> tuple[float, list[float]]:
        """Score, and the numbers before it in pixels of the image: four of a box, or those of a polygon."""
        assert self.shares is not None
        *numbers, score = self.shares
        if len(numbers) % 2:
            form = "class x y width height score" if len(numbers) < 5 else "class x1 y1 x2 y2 x3 y3 ... score"
            raise ValueError(
                f"{self.where}: expected {form!r}, got {len(numbers) + 2} words, as without a score: "
                f"{short(self.text)}; let the detector write scores, too (save_conf=True)"
            )
        if size is None:
            raise ValueError(f"{self.where}: {NO_SIZE}")
        return score, [number * size[1 - index % 2] for index, number in enumerate(numbers)]


def read_texts(
    root: Path,
    files: list[Path],
    annotations: Annotations,
    iou_type: IouType,
    coordinates: Coordinates,
    closed: bool,
) -> Results:
    """Text files, each about one class (lines start with the image) or one image (lines start with the class).

    Args:
        root: what was named: a folder, or the only file.
        files: to read.
        annotations: what the results are for.
        iou_type: which shape of the results is needed.
        coordinates: as in `dcn.metrics.evaluate_files`.
        closed: the classes are complete.

    Raises:
        ValueError: a problem in a file, or masks of files that have none.
    """
    classes = Classes(annotations, closed or not annotations.is_voc)
    contents = {file: _lines(file) for file in files}
    images = {file: _image_of_file(file, root, contents[file], annotations) for file in files}
    class_files = _class_of_files([file for file, image in images.items() if image is None], annotations, closed)
    about_images = [line for file, image in images.items() if image is not None for line in contents[file]]
    shares = coordinates == "auto" and _are_shares(about_images)
    if iou_type == "segm" and not shares:
        raise ValueError(
            f"iou_type: expected 'bbox' for text results without polygons in YOLO's form, got 'segm' with {root}"
        )
    class_of_line = _class_of_line(about_images, annotations, classes)
    rows = []
    for file in files:
        image, name = images[file], class_files.get(file)
        if image is None and name is None:
            raise ValueError(
                f"{file}: expected a file named <image>.txt or ..._<class>.txt, got {file.stem!r}, which is neither an "
                f"image nor ends in a class of {annotations.path}; {OTHER}"
            )
        for line in contents[file]:
            if image is not None and shares:
                rows.append(_row_of_shares(line, image, class_of_line(line), annotations.images[image].size, iou_type))
                continue
            score, box = line.in_pixels(coordinates != "continuous")
            if image is not None:
                rows.append(ResultRow(image, class_of_line(line), score, box))
            else:
                index = only_image(_named(line.name, annotations), line.name, f"{line.where}: image", annotations)
                rows.append(ResultRow(index, classes.label(name or "", line.where), score, box))
    return Results(rows, classes.names(root))


def _are_shares(lines: Sequence[_Line]) -> bool:
    """Whether files of images are in shares. All lines together decide: a box of one pixel could be both.

    Raises:
        ValueError: most of the lines are, but not all: the others would be read as pixels without a word.
    """
    others = [line for line in lines if line.shares is None]
    if others and 2 * len(others) < len(lines):
        raise ValueError(
            f"{others[0].where}: expected a class and shares of the image, 0 to 1, as in most lines, got "
            f"{short(others[0].text)}{others[0].note}"
        )
    return bool(lines) and not others


def _row_of_shares(line: _Line, image: int, label: int, size: tuple[int, int] | None, iou_type: IouType) -> ResultRow:
    score, numbers = line.in_shares(size)
    polygon = len(numbers) > 4
    try:
        if iou_type == "segm":
            if not polygon:
                raise ValueError(f"expected a polygon 'class x1 y1 x2 y2 x3 y3 ... score', got {short(line.text)}")
            assert size is not None  # in_shares raises
            return ResultRow(image, label, score, segmentation=run_lengths([numbers], size))
        if polygon:
            x1, y1, x2, y2 = extent(numbers)
            box = [x1, y1, x2 - x1, y2 - y1]
        else:
            x, y, w, h = numbers
            box = [x - w / 2, y - h / 2, w, h]
        return ResultRow(image, label, score, tuple(fields.box_xywh(box)))
    except ValueError as error:
        raise ValueError(f"{line.where}: {error}") from error


def _lines(path: Path) -> list[_Line]:
    text = read_text(path, "result file")
    return [_Line(f"{path}: line {number}", line, text.note) for number, line in text.lines()]


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
    return only_image(choices, file.name, str(file), annotations)


def _named(name: str, annotations: Annotations) -> list[int]:
    """The images that a text file means by a name: those of that file name or stem, else that of that id."""
    if choices := annotations.by_name(name):
        return choices
    by_id = annotations.by_id(fields.identifier(name, "image")) if name else None
    return [] if by_id is None else [by_id]


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


def _class_of_line(lines: Sequence[_Line], annotations: Annotations, classes: Classes) -> Callable[[_Line], int]:
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
