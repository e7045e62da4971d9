"""The Pascal VOC layout: XML annotations, lists of splits, class names; every value is checked before it is used.

`read_record` is the one reader of XML files and `read_split` the one reader of lists: datasets, the check and the
evaluation of result files all use them. The files hold 1-based inclusive corners: ``x1 = xmin - 1``, ``x2 = xmax``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

from dcn.class_names import check_class_names
from dcn.formats import fields
from dcn.formats.documents import read_text, read_xml
from dcn.formats.fields import Box
from dcn.formats.file_names import SUFFIXES, files_in, image_of, posix
from dcn.formats.images import MAX_PIXELS, image_size, size_message
from dcn.formats.problems import OutsideError, Problem, Report, attempt, attempt_object, short
from dcn.suggest import one_of

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAG_COLUMN = re.compile(r"(?P<stem>.*\S)\s+-?[01]")


@dataclass(frozen=True)
class VocObject:
    """One ``<object>``.

    Attributes:
        number: its position in the file, from 0.
        name: of its class.
        box: xyxy in continuous edges, cut to the image.
        difficult: not trained on, ignored in evaluation.
        truncated: used by nothing here.
    """

    number: int
    name: str
    box: Box
    difficult: bool
    truncated: bool

    @property
    def degenerate(self) -> bool:
        """Whether two corners coincide in the file: a click, not an object (one pixel wide or high when converted)."""
        return self.box[2] - self.box[0] <= 1 or self.box[3] - self.box[1] <= 1


@dataclass(frozen=True)
class VocRecord:
    """One image of a split.

    Attributes:
        stem: what the list calls it.
        image: the image file; ``None`` where images were not asked for and it is not there.
        annotation: the XML file.
        size: ``(height, width)``; ``None`` only where neither the XML nor an image tells it.
        objects: in the order of the file.
    """

    stem: str
    image: Path | None
    annotation: Path
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def _number(parent: Element, tag: str) -> float:
    text = parent.findtext(tag)
    if text is None:
        raise ValueError(f"<{tag}> is missing from <{parent.tag}>")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) >= 1e9:
        raise ValueError(f"<{tag}>: expected a number, got {short(text.strip())}")
    return value


def _truncated(item: Element) -> bool:
    """Any text is taken, as nothing depends on it: some tools write the share that is cut off or ``Unspecified``."""
    text = (item.findtext("truncated") or "").strip().lower()
    try:
        return float(text) > 0
    except ValueError:
        return text in ("true", "yes")


def _object(number: int, item: Element, size: tuple[int, int] | None, clip: bool = False) -> VocObject:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError("<name> is missing or empty")
    corners = item.find("bndbox")
    if corners is None:
        raise ValueError("<bndbox> is missing")
    x1, y1, x2, y2 = (_number(corners, tag) for tag in _CORNERS)
    written = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if x2 < x1 or y2 < y1:
        raise ValueError(f"expected xmin <= xmax and ymin <= ymax, got the reversed box {written}")
    box = _inside((x1, y1, x2, y2), written, size, clip)
    difficult = fields.flag(item.findtext("difficult"), "<difficult>")
    return VocObject(number, name, box, difficult, _truncated(item))


def _inside(corners: Box, written: str, size: tuple[int, int] | None, clip: bool) -> Box:
    """Continuous edges, cut to the image; a box may pass it by less than a pixel at its start and a pixel at its end.

    Tools that count from 0 write ``xmin = 0``, or ``-0.3`` for a box that touches the edge.
    """
    x1, y1, x2, y2 = corners
    if size is None:
        return max(x1 - 1, 0.0), max(y1 - 1, 0.0), x2, y2
    height, width = size
    low, high = -fields.TOLERANCE, fields.TOLERANCE
    if not clip and (min(x1, y1) <= low or x2 > width + high or y2 > height + high):
        raise OutsideError(f"expected a box {fields.within(size)}, got {written}")
    x1, x2 = (min(max(v, 0.0), float(width)) for v in (x1 - 1, x2))
    y1, y2 = (min(max(v, 0.0), float(height)) for v in (y1 - 1, y2))
    return x1, y1, x2, y2


def _annotated_size(root: Element, image: Path | None, upright: bool) -> tuple[int, int] | None:
    """The size in the file; where a tag is absent, 0 or -1, as some tools write it, the size of the image itself."""
    size = root.find("size")
    sides = [0.0, 0.0]
    if size is not None:
        sides = [_number(size, tag) if size.find(tag) is not None else 0.0 for tag in ("height", "width")]
    height, width = (int(side) for side in sides)
    if height > 0 and width > 0:
        if height * width > MAX_PIXELS:
            raise ValueError(f"expected an image of at most {MAX_PIXELS:,} pixels, got {width}x{height}")
        return height, width
    return None if image is None else image_size(image, upright=upright)


def read_record(
    stem: str, image: Path | None, annotation: Path, report: Report, *, upright: bool = False
) -> VocRecord | None:
    """Read one annotation file; ``None`` after a report when the file as a whole cannot be used.

    Objects at fault are reported one by one and left out.
    """
    root = attempt(partial(read_xml, annotation, "annotation"), report, annotation, "")
    if root is None:
        return None
    try:
        size = _annotated_size(root, image, upright)
    except ValueError as error:
        report(Problem(annotation, "size", str(error)))
        return None
    objects = []
    for number, item in enumerate(root.findall("object")):
        entry = f"object {number} ({short((item.findtext('name') or '').strip())[1:-1] or 'no name'})"
        objects.append(attempt_object(partial(_object, number, item, size), report, annotation, entry))
    return VocRecord(stem, image, annotation, size, tuple(item for item in objects if item is not None))


def _plain_folder(root: Path) -> bool:
    return (root / "ImageSets" / "Main").is_dir() or (root / "Annotations").is_dir()


def locate_split(root: Path, part: str) -> tuple[Path, Path]:
    """The folder and the list of one part of a split: ``"train"``, or ``"2007_trainval"`` in a VOCdevkit.

    Raises:
        ValueError: there is no such list.
    """
    year, _, rest = part.partition("_")
    candidates = [(root, part)] if _plain_folder(root) else []
    if rest and year.isdigit():
        folders = (root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}")
        candidates += [(folder, rest) for folder in folders]
        candidates += [(root, rest)] if root.name == f"VOC{year}" else []
    for folder, name in candidates:
        if (listing := folder / "ImageSets" / "Main" / f"{name}.txt").is_file():
            return folder, listing
    if not root.is_dir():
        raise ValueError(f"root: expected a folder of the Pascal VOC layout or a VOCdevkit, got {root}")
    splits = available_splits(root)
    if not splits:
        raise ValueError(
            f"root: expected ImageSets/Main/*.txt, or VOC<year> folders that have them, got none in {root}"
        )
    raise ValueError(f"split: expected {one_of(splits, '')} in {root}, got {part!r}; several are joined with '+'")


def available_splits(root: Path) -> list[str]:
    """The lists that ``split`` may name: ``"train"`` in a plain folder, ``"2007_train"`` in a VOCdevkit.

    The original data has one more set of lists for every class (``dog_train``); they repeat the others and are left
    out.
    """
    if (root / "ImageSets" / "Main").is_dir():
        return _lists(root)
    folders = sorted(
        path.parents[1] for path in (*root.glob("VOC*/ImageSets/Main"), *root.glob("VOCdevkit/VOC*/ImageSets/Main"))
    )
    return [f"{folder.name.removeprefix('VOC')}_{name}" for folder in folders for name in _lists(folder)]


def _lists(folder: Path) -> list[str]:
    paths = files_in(folder / "ImageSets" / "Main", ".txt")
    names = {path.stem for path in paths}
    return [path.stem for path in paths if not _is_of_class(path, names)]


def _is_of_class(path: Path, names: set[str]) -> bool:
    """Whether a list is one of a class: ``<class>_<split>``, and lines that end in a flag.

    Class and split may both hold underscores: ``traffic_light_train_2``, beside a split ``my_train`` of its own.
    """
    if not any(path.stem.endswith(f"_{name}") for name in names):
        return False
    try:
        lines = read_text(path).lines()
    except ValueError:
        return False  # a list that cannot be read: whoever asks for it is told
    return not lines or _FLAG_COLUMN.fullmatch(lines[0][1]) is not None


def image_file(folder: Path, stem: str) -> Path:
    """The image ``JPEGImages/<stem>`` with any ending, else the ``.jpg`` that is expected."""
    return image_of(folder / "JPEGImages", stem) or folder / "JPEGImages" / f"{stem}.jpg"


def listed_stem(line: str, exists: Callable[[str], bool]) -> str:
    """The image that a line of a list names: the line, or what stands before a flag (-1, 0 or 1) or an ending.

    The lists of one class end each line in a flag; names themselves may hold blanks. What exists decides.
    """
    candidates = [line]
    if (match := _FLAG_COLUMN.fullmatch(line)) is not None:
        candidates.append(match["stem"])
    candidates += [name[: -len(suffix)] for name in candidates for suffix in SUFFIXES if name.lower().endswith(suffix)]
    candidates = [posix(name) for name in candidates]
    best = candidates[1] if match is not None else candidates[0]
    return next((name for name in candidates if exists(name)), best)


def read_split(
    root: Path, split: str, report: Report, *, need_images: bool = True, upright: bool = False
) -> list[VocRecord]:
    """Every usable record of a split such as ``"train"`` or ``"2007_trainval+2012_trainval"``, in list order.

    Args:
        root: the folder.
        split: lists in ``ImageSets/Main``, joined with ``+``.
        report: what to do with a problem.
        need_images: report images that do not exist; evaluation needs none.
        upright: sizes that an XML file does not know are those of the photos turned as their EXIF says.

    Raises:
        ValueError: the folder or a list does not exist, or is no text, whatever ``report`` does.
    """
    records: list[VocRecord] = []
    seen: set[Path] = set()
    for part in split.split("+"):
        folder, listing = locate_split(root, part.strip())
        text = read_text(listing, "list of images")
        for line, content in text.lines():
            stem = listed_stem(content, partial(_is_there, folder))
            annotation = folder / "Annotations" / f"{stem}.xml"
            entry = Problem(listing, f"line {line}", "")
            if annotation in seen:
                report(Problem(listing, entry.entry, f"{short(stem)} is listed twice"))
                continue
            seen.add(annotation)
            missing = _missing(folder, stem, annotation, need_images)
            for path in missing:
                message = f"{stem!r} is listed, but {path} does not exist{text.note}"
                report(Problem(listing, entry.entry, message, annotation not in missing))
            if not missing:
                image = image_of(folder / "JPEGImages", stem)
                record = read_record(stem, image, annotation, report, upright=upright)
                records += [] if record is None else [record]
    return records


def _is_there(folder: Path, stem: str) -> bool:
    return _is_annotated(folder, stem) or image_of(folder / "JPEGImages", stem) is not None


def _is_annotated(folder: Path, stem: str) -> bool:
    try:
        return (folder / "Annotations" / f"{stem}.xml").is_file()
    except (OSError, ValueError):  # a line too long for a name, or with a zero in it
        return False


def _missing(folder: Path, stem: str, annotation: Path, need_images: bool) -> list[Path]:
    image = image_of(folder / "JPEGImages", stem) if need_images else annotation
    missing = [folder / "JPEGImages" / f"{stem}.jpg"] if image is None else []
    return missing if _is_annotated(folder, stem) else [*missing, annotation]


def read_folder(root: Path, report: Report) -> list[VocRecord]:
    """The records of all XML files of a folder without lists, sorted; images may be missing."""
    folder = root if root.name == "Annotations" else root / "Annotations"
    records = []
    for path in files_in(folder, ".xml"):
        image = image_of(folder.parent / "JPEGImages", path.stem)
        records.append(read_record(path.stem, image, path, report))
    return [record for record in records if record is not None]


def find_classes(records: Sequence[VocRecord]) -> tuple[str, ...]:
    """The class names in the annotations beside the records' own, all splits included, sorted.

    All files of the folder are read, so that every split of one folder gets the same labels.
    """
    folders = sorted({record.annotation.parent for record in records})
    names = {item.name for record in records for item in record.objects}
    known = {record.annotation for record in records}
    for path in (path for folder in folders for path in files_in(folder, ".xml") if path not in known):
        # A broken file of another split is no concern here: whoever loads that split is told.
        root = attempt(partial(read_xml, path, "annotation"), lambda problem: None, path, "")
        names |= set() if root is None else {(item.findtext("name") or "").strip() for item in root.findall("object")}
    return tuple(sorted(names - {""}))


def report_unknown_classes(records: Sequence[VocRecord], classes: Sequence[str], report: Report) -> None:
    """Report every object whose class is not among ``classes``."""
    known = set(classes)
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    hint = "name the classes of your data with classes=[...] or classes='auto'"
    for record in records:
        for item in record.objects:
            if item.name not in known:
                message = f"class: expected one of {shown}, got {short(item.name)}; {hint}"
                report(Problem(record.annotation, f"object {item.number}", message))


def report_degenerate(records: Sequence[VocRecord], report: Report) -> int:
    """Report every box without extent and return how many there are."""
    count = 0
    for record in records:
        for item in record.objects:
            if item.degenerate:
                count += 1
                corners = tuple(round(v) for v in (item.box[0] + 1, item.box[1] + 1, *item.box[2:]))
                entry = f"object {item.number} ({item.name})"
                report(Problem(record.annotation, entry, f"box {corners} has no extent"))
    return count


def size_problem(record: VocRecord, stored: tuple[int, int]) -> Problem:
    """An image whose pixels are not of the annotated size; ``stored`` is ``(height, width)``."""
    assert record.image is not None
    assert record.size is not None
    return Problem(record.annotation, "size", size_message(record.image, record.size, stored))


def class_names(classes: Sequence[str], find: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """The class names an option gives: a list, or ``"auto"`` for what ``find`` returns.

    Raises:
        ValueError: a single other text, a name twice, or no name.
    """
    if classes == "auto":
        return find()
    if isinstance(classes, str):
        raise ValueError(f"classes: expected a list of names or 'auto', got {classes!r}")
    return check_class_names(classes)
