"""The files of the Pascal VOC layout: XML annotations, lists of splits, class names; each read under suspicion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from dcn.data.images import image_size
from dcn.data.problems import Problem, Report, attempt

SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".webp", ".tif")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """One ``<object>``: its place in the file (from 0), class name, xyxy box in continuous edges, the two flags."""

    number: int
    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    truncated: bool

    @property
    def flat(self) -> bool:
        """Whether two corners coincide in the file: a click, not an object (one pixel wide or high when converted)."""
        return self.box[2] - self.box[0] <= 1 or self.box[3] - self.box[1] <= 1


@dataclass(frozen=True)
class VocRecord:
    """One image of a split: its files, ``(height, width)`` and objects."""

    image: Path
    annotation: Path
    size: tuple[int, int]
    objects: tuple[VocObject, ...]


def parse_xml(data: bytes) -> Element:
    """Parse an XML file that may be hostile: a document type declaration (hence any entity) is refused.

    Raises:
        ValueError: malformed XML, or a document type declaration.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError) as error:
        raise ValueError(f"malformed XML: {error}") from error
    return builder.close()


def read_xml(path: Path) -> Element:
    """`parse_xml` of a file.

    Raises:
        ValueError: also when the file cannot be read.
    """
    try:
        return parse_xml(path.read_bytes())
    except OSError as error:
        raise ValueError(f"the annotation cannot be read ({error.strerror})") from error


def _refuse_doctype(*_: object) -> None:
    raise ValueError("a document type declaration (DTD) is not accepted in an annotation; remove the <!DOCTYPE> part")


def _number(parent: Element, tag: str) -> float:
    text = parent.findtext(tag)
    if text is None:
        raise ValueError(f"<{tag}> is missing from <{parent.tag}>")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"<{tag}>: expected a number, got {text.strip()!r}")
    return value


def _flag(item: Element, tag: str) -> bool:
    text = (item.findtext(tag) or "0").strip()
    if text not in ("0", "1"):
        raise ValueError(f"<{tag}>: expected 0 or 1, got {text!r}")
    return text == "1"


def _object(number: int, item: Element, size: tuple[int, int]) -> VocObject:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError("<name> is missing or empty")
    corners = item.find("bndbox")
    if corners is None:
        raise ValueError("<bndbox> is missing")
    x1, y1, x2, y2 = (_number(corners, tag) for tag in _CORNERS)
    written = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if x2 < x1 or y2 < y1:
        raise ValueError(f"box {written} is reversed: expected xmin <= xmax and ymin <= ymax")
    if min(x1, y1) < 0 or x2 > size[1] or y2 > size[0]:
        raise ValueError(f"box {written} lies outside the image of {size[1]}x{size[0]} pixels (width x height)")
    box = (max(x1 - 1, 0.0), max(y1 - 1, 0.0), x2, y2)
    return VocObject(number, name, box, _flag(item, "difficult"), _flag(item, "truncated"))


def _annotated_size(root: Element, image: Path) -> tuple[int, int]:
    """The size in the file; where the tag is absent or zero, as some tools write it, the size of the image itself."""
    size = root.find("size")
    height, width = (0, 0) if size is None else (int(_number(size, "height")), int(_number(size, "width")))
    return (height, width) if height > 0 and width > 0 else image_size(image)


def read_record(image: Path, annotation: Path, report: Report) -> VocRecord | None:
    """Read one annotation file; ``None`` after a report when the file as a whole cannot be used.

    Objects at fault are reported one by one and left out.
    """
    root = attempt(partial(read_xml, annotation), report, annotation, "")
    size = None if root is None else attempt(partial(_annotated_size, root, image), report, annotation, "size")
    if root is None or size is None:
        return None
    objects = []
    for number, item in enumerate(root.findall("object")):
        entry = f"object {number} ({(item.findtext('name') or '').strip() or 'no name'})"
        objects.append(attempt(partial(_object, number, item, size), report, annotation, entry))
    return VocRecord(image, annotation, size, tuple(item for item in objects if item is not None))


def _plain_folder(root: Path) -> bool:
    return (root / "ImageSets" / "Main").is_dir() or (root / "Annotations").is_dir()


def _part(root: Path, part: str) -> tuple[Path, str]:
    """The folder and the list name of one part of a split: ``"train"``, or ``"2007_trainval"`` in a VOCdevkit."""
    year, _, rest = part.partition("_")
    candidates = [(root, part)] if _plain_folder(root) else []
    if rest and year.isdigit():
        folders = (root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}")
        candidates += [(folder, rest) for folder in folders]
        candidates += [(root, rest)] if root.name == f"VOC{year}" else []
    for folder, name in candidates:
        if (folder / "ImageSets" / "Main" / f"{name}.txt").is_file():
            return folder, name
    raise ValueError(_no_split(root, part))


def _no_split(root: Path, part: str) -> str:
    if not root.is_dir():
        return f"root: {root} is not a folder; expected Annotations, ImageSets/Main and JPEGImages, or a VOCdevkit"
    found = available_splits(root)
    if not found:
        return f"root: {root} has no ImageSets/Main/*.txt; expected the Pascal VOC layout or a VOCdevkit with VOC<year>"
    return f"split: {root} has no list {part!r}; it has {', '.join(found)} (several are joined with '+')"


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
    names = {path.stem for path in (folder / "ImageSets" / "Main").glob("*.txt")}
    return sorted(name for name in names if "_" not in name or name.rpartition("_")[2] not in names)


def image_file(folder: Path, stem: str) -> Path:
    """``JPEGImages/<stem>`` with the first suffix that exists, else the ``.jpg`` that is expected."""
    paths = [folder / "JPEGImages" / f"{stem}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def read_split(root: Path, split: str, report: Report) -> list[VocRecord]:
    """Every usable record of a split such as ``"train"`` or ``"2007_trainval+2012_trainval"``, in list order.

    Raises:
        ValueError: the folder or a list does not exist, whatever ``report`` does.
    """
    records: list[VocRecord] = []
    seen: set[Path] = set()
    for part in split.split("+"):
        folder, name = _part(root, part.strip())
        listing = folder / "ImageSets" / "Main" / f"{name}.txt"
        for line, text in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if not text.strip():
                continue
            stem = text.split()[0]  # the lists of one class have a second column, -1, 0 or 1
            annotation = folder / "Annotations" / f"{stem}.xml"
            if annotation in seen:
                report(Problem(listing, f"line {line}", f"{stem!r} is listed twice"))
                continue
            seen.add(annotation)
            record = _listed(folder, stem, annotation, Problem(listing, f"line {line}", ""), report)
            records += [] if record is None else [record]
    return records


def _listed(folder: Path, stem: str, annotation: Path, place: Problem, report: Report) -> VocRecord | None:
    image = image_file(folder, stem)
    missing = [path for path in (image, annotation) if not path.is_file()]
    for path in missing:
        report(Problem(place.file, place.entry, f"{stem!r} is listed, but {path} does not exist"))
    return None if missing else read_record(image, annotation, report)


def find_classes(records: Sequence[VocRecord]) -> tuple[str, ...]:
    """The class names in the annotations beside the records' own, all splits included, sorted.

    All files of the folder are read, so that every split of one folder gets the same labels.
    """
    folders = sorted({record.annotation.parent for record in records})
    names = {item.name for record in records for item in record.objects}
    known = {record.annotation for record in records}
    for path in (path for folder in folders for path in sorted(folder.glob("*.xml")) if path not in known):
        # A broken file of another split is no concern here: whoever loads that split is told.
        root = attempt(partial(read_xml, path), lambda problem: None, path, "")
        names |= set() if root is None else {(item.findtext("name") or "").strip() for item in root.findall("object")}
    return tuple(sorted(names - {""}))


def unknown_classes(records: Sequence[VocRecord], classes: Sequence[str], report: Report) -> None:
    """Report every object whose class is not among ``classes``."""
    for record in records:
        for item in record.objects:
            if item.name not in classes:
                known = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
                hint = f"expected one of {known}; name the classes of your data with classes=[...] or classes='auto'"
                report(Problem(record.annotation, f"object {item.number}", f"unknown class {item.name!r}: {hint}"))


def flat_boxes(records: Sequence[VocRecord], report: Report) -> int:
    """Report every box without extent and return how many there are."""
    count = 0
    for record in records:
        for item in record.objects:
            if item.flat:
                count += 1
                corners = tuple(round(v) for v in (item.box[0] + 1, item.box[1] + 1, *item.box[2:]))
                report(
                    Problem(record.annotation, f"object {item.number} ({item.name})", f"box {corners} has no extent")
                )
    return count


def size_problem(record: VocRecord, found: tuple[int, int]) -> Problem:
    """An image whose pixels are not of the annotated size; ``found`` is ``(height, width)``."""
    said, is_ = (f"{width}x{height}" for height, width in (record.size, found))
    return Problem(record.annotation, "size", f"the annotation says {said} pixels, {record.image} has {is_}")


def class_names(classes: Sequence[str], find: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """The class names an option gives: a list, or ``"auto"`` for what ``find`` returns.

    Raises:
        ValueError: a single other string, a name twice, or no name.
    """
    if isinstance(classes, str):
        if classes != "auto":
            raise ValueError(f"classes: expected a list of names or 'auto', got {classes!r}")
        return find()
    names = tuple(classes)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"classes: expected one or more different names, got {list(names)}")
    return names
