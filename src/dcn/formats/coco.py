"""COCO instances, the annotation file: every field is checked before it is used.

`read_instances` is the one reader: datasets, the check and the evaluation of result files all use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dcn.formats import fields
from dcn.formats.color_tables import JSON_FILES
from dcn.formats.documents import read_json
from dcn.formats.fields import Box, Identifier
from dcn.formats.file_names import files_in, resolve
from dcn.formats.images import MAX_PIXELS, image_size, size_message
from dcn.formats.masks import check_segmentation, cut_outline, is_outline
from dcn.formats.problems import BrokenImageError, Problem, Report, attempt, attempt_object, short


@dataclass(frozen=True)
class CocoObject:
    """One annotation.

    Attributes:
        id: of the annotation.
        category: id of its class.
        xywh: ``[x, y, width, height]`` as in the file, cut to the image.
        area: in pixels²; of an object whose box is cut at most that of the box.
        crowd: a region of many objects.
        difficult: the file says ``difficult`` or ``ignore``, as a field or among the ``attributes``.
        segmentation: checked polygons or run lengths, or ``None``.
    """

    id: Identifier
    category: Identifier
    xywh: tuple[float, ...]
    area: float
    crowd: bool
    difficult: bool
    segmentation: Any

    @property
    def box(self) -> Box:
        """xyxy."""
        x, y, width, height = self.xywh
        return x, y, x + width, y + height

    @property
    def degenerate(self) -> bool:
        """Whether the box has no extent: width or height 0."""
        return self.xywh[2] <= 0 or self.xywh[3] <= 0


@dataclass(frozen=True)
class CocoRecord:
    """One image.

    Attributes:
        id: of the image.
        name: ``file_name`` as in the annotation file.
        image: the image file; ``None`` where images were not asked for and it is not there.
        size: ``(height, width)``; ``None`` only where neither the file nor an image tells it.
        objects: its annotations.
    """

    id: Identifier
    name: str
    image: Path | None
    size: tuple[int, int] | None
    objects: tuple[CocoObject, ...]


@dataclass(frozen=True)
class CocoFile:
    """A whole annotation file after checking.

    Attributes:
        path: of the file.
        categories: ``{id: name}`` in ascending order of the ids (numbers, then texts).
        records: the images.
        annotated: false for ``image_info_*.json`` without annotations: what COCO publishes for test images.
    """

    path: Path
    categories: dict[Identifier, str]
    records: tuple[CocoRecord, ...]
    annotated: bool = True

    @property
    def has_masks(self) -> bool:
        """Whether any object has a segmentation."""
        return any(item.segmentation is not None for record in self.records for item in record.objects)


@dataclass(frozen=True)
class _Source:
    """What the entries of one file are read with."""

    path: Path
    folder: Path | None
    report: Report
    need_images: bool
    masks: bool
    upright: bool


def read_instances(
    path: Path,
    folder: Path | None,
    report: Report,
    *,
    need_images: bool = True,
    masks: bool = True,
    upright: bool = False,
) -> CocoFile:
    """Read an annotation file; entries at fault are reported and left out.

    Args:
        path: the file.
        folder: of the images; ``None`` where none is known.
        report: what to do with a problem.
        need_images: report images that do not exist; evaluation needs none.
        masks: check the segmentations; where some objects have one, report those that have none.
        upright: sizes that the file does not know are those of the photos turned as their EXIF says.
    """
    source = _Source(path, folder, report, need_images, masks, upright)
    data = attempt(partial(_content, path), report, path, "")
    if data is None:
        return CocoFile(path, {}, ())
    categories = read_categories(data, path, report)
    images = _images(data, source)
    objects = _annotations(data, images, categories, source)
    kept = tuple(
        CocoRecord(key, name, image, size, tuple(objects.get(key, ())))
        for key, entry in images.items()
        if entry is not None
        for name, image, size in (entry,)
    )
    file = CocoFile(path, categories, kept, _annotated(data, path))
    if masks:
        _report_missing_outlines(file, report)
    return file


def _content(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"expected an object with images, categories and annotations, got {short(data)}")
    return data


def entries(
    data: Mapping[str, Any], key: str, path: Path, report: Report
) -> Iterator[tuple[str, dict[str, Any], Identifier]]:
    """``(entry for messages, entry, id)`` of the list ``key``, one of each id."""
    items = data.get(key)
    if not isinstance(items, list):
        report(Problem(path, "", f"{key!r}: expected a list, got {short(items)}; is this a COCO annotation file?"))
        return
    seen: set[Identifier] = set()
    for number, entry in enumerate(items):
        where = f"{key}[{number}]"
        if not isinstance(entry, dict):
            report(Problem(path, where, f"expected an object {{...}}, got {short(entry)}"))
            continue
        identifier = attempt(partial(fields.identifier, entry.get("id"), "id"), report, path, where)
        if identifier is None:
            continue
        if identifier in seen:
            report(Problem(path, where, f"id {identifier} is used twice"))
            continue
        seen.add(identifier)
        yield f"{where} (id {identifier})", entry, identifier


def read_categories(data: Mapping[str, Any], path: Path, report: Report) -> dict[Identifier, str]:
    """``{id: name}`` of the list ``categories``, in ascending order of the ids."""
    names: dict[Identifier, str] = {}
    used: set[str] = set()
    if data.get("categories") == []:
        report(Problem(path, "", "'categories': expected one or more classes, got []"))
    for where, entry, key in entries(data, "categories", path, report):
        name = attempt(partial(fields.class_name, entry.get("name")), report, path, where)
        if name in used:
            report(Problem(path, where, f"the name {short(name)} is used twice"))
        elif name is not None:
            used.add(name)
            names[key] = name
    return dict(sorted(names.items(), key=lambda item: fields.order(item[0])))


_DIFFICULT = frozenset({"difficult", "ignore", "attributes"})
_Image = tuple[str, Path | None, tuple[int, int] | None]


def _images(data: Mapping[str, Any], source: _Source) -> dict[Identifier, _Image | None]:
    """Name, file and size of each image by its id; ``None`` for an image that is at fault."""
    read: dict[Identifier, _Image | None] = {}
    for where, entry, key in entries(data, "images", source.path, source.report):
        read[key] = attempt(partial(_image, entry, source), source.report, source.path, where)
    return read


def _image(entry: dict[str, Any], source: _Source) -> _Image:
    name = entry.get("file_name")
    if not source.need_images and name is None:
        name = ""
    elif not isinstance(name, str) or not name:
        raise ValueError(f"'file_name': expected a text, got {short(name)}")
    height, width = fields.side(entry, "height"), fields.side(entry, "width")
    asked = source.folder is not None and name and (source.need_images or not (height and width))
    image = resolve(source.folder, name) if asked and source.folder is not None else None
    if height * width > MAX_PIXELS:
        raise ValueError(f"expected an image of at most {MAX_PIXELS:,} pixels, got {width}x{height}")
    if image is None and source.need_images:
        raise BrokenImageError(f"the image {(source.folder or Path()) / name} does not exist")
    if height and width:
        return name, image, (height, width)
    return name, image, None if image is None else image_size(image, upright=source.upright)


def _annotated(data: Mapping[str, Any], path: Path) -> bool:
    return "annotations" in data or not path.name.startswith("image_info_")


def _annotations(
    data: Mapping[str, Any],
    images: Mapping[Identifier, _Image | None],
    categories: Mapping[Identifier, str],
    source: _Source,
) -> dict[Identifier, list[CocoObject]]:
    """The usable objects of each image; those of an image that is itself at fault are left out without a word."""
    objects: dict[Identifier, list[CocoObject]] = {}
    if not _annotated(data, source.path):
        return objects
    for where, entry, key in entries(data, "annotations", source.path, source.report):
        read = partial(_annotation, entry, key, images, categories, source.masks)
        pair = attempt_object(read, source.report, source.path, where)
        if pair is not None and pair[1] is not None:
            objects.setdefault(pair[0], []).append(pair[1])
    return objects


def _annotation(
    entry: dict[str, Any],
    key: Identifier,
    images: Mapping[Identifier, _Image | None],
    categories: Mapping[Identifier, str],
    masks: bool,
    clip: bool = False,
) -> tuple[Identifier, CocoObject | None]:
    image = fields.identifier(entry.get("image_id"), "image_id")
    if image not in images:
        raise ValueError(f"image_id: expected one of 'images', got {short(image)}")
    record = images[image]
    if record is None:
        return image, None
    category = fields.identifier(entry.get("category_id"), "category_id")
    if category not in categories:
        raise ValueError(f"category_id: expected one of 'categories', got {short(category)}")
    return image, _object(entry, key, category, record[2], masks, clip)


def _object(
    entry: dict[str, Any],
    key: Identifier,
    category: Identifier,
    size: tuple[int, int] | None,
    masks: bool,
    clip: bool,
) -> CocoObject:
    written = fields.box_xywh(entry.get("bbox"))
    box = fields.inside(written, size, clip)
    segmentation = entry.get("segmentation")
    if not is_outline(segmentation):
        segmentation = None
    elif masks:
        if size is None:
            raise ValueError("'segmentation': the size of the image is not known; add its height and width")
        segmentation = cut_outline(segmentation, size) if clip else segmentation
        check_segmentation(segmentation, size)
    area = fields.area(entry.get("area"), box)
    return CocoObject(
        key,
        category,
        tuple(box),
        min(area, box[2] * box[3]) if clip else area,
        fields.flag(entry.get("iscrowd"), "'iscrowd'"),
        _difficult(entry),
        segmentation,
    )


def _difficult(entry: dict[str, Any]) -> bool:
    if not _DIFFICULT & entry.keys():  # nearly all entries of large files
        return False
    attributes = entry.get("attributes")
    sources = [entry, attributes] if isinstance(attributes, dict) else [entry]
    return any(fields.flag(source.get(name), f"'{name}'") for source in sources for name in ("difficult", "ignore"))


def _report_missing_outlines(file: CocoFile, report: Report) -> None:
    """An object without outline among others with one: a mask would be empty without a word."""
    if not file.has_masks:
        return
    for record in file.records:
        for item in record.objects:
            if item.segmentation is None:
                message = (
                    "'segmentation': expected polygons or run lengths, got none; load boxes alone with masks=False, "
                    "convert them with --boxes"
                )
                report(Problem(file.path, f"annotation id {item.id}", message))


def join(files: list[CocoFile]) -> CocoFile:
    """Several files as one.

    Raises:
        ValueError: their categories differ, or they share the id of an image.
    """
    first = files[0]
    for number, other in enumerate(files[1:], 1):
        if other.categories != first.categories:
            raise ValueError(f"{other.path}: expected the categories of {first.path} to join them, got others")
        known = {record.id for file in files[:number] for record in file.records}
        twice = [record.id for record in other.records if record.id in known]
        if twice:
            raise ValueError(
                f"{other.path}: expected image ids that no split before it has, got {twice[0]}; they cannot be joined"
            )
    records = tuple(record for file in files for record in file.records)
    return CocoFile(first.path, first.categories, records, all(file.annotated for file in files))


def report_degenerate(file: CocoFile, report: Report) -> int:
    """Report every box without extent and return how many there are."""
    items = [item for record in file.records for item in record.objects if item.degenerate]
    for item in items:
        report(Problem(file.path, f"annotation id {item.id}", f"box {item.box} (x1, y1, x2, y2) has no extent"))
    return len(items)


def size_problem(path: Path, record: CocoRecord, stored: tuple[int, int]) -> Problem:
    """An image whose pixels are not of the annotated size; ``stored`` is ``(height, width)``."""
    assert record.image is not None
    assert record.size is not None
    return Problem(path, f"image id {record.id}", size_message(record.image, record.size, stored))


def locate(root: Path, split: str, annotations: str | None, images: str | None) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split; the options name others, relative to ``root``.

    Raises:
        ValueError: one of the three does not exist.
    """
    if not root.is_dir():
        raise ValueError(f"root: expected a folder, got {root}")
    above = (f"annotations/instances_{split}.json", f"{split}.json", f"annotations/image_info_{split}.json")
    names = (*above, f"instances_{split}.json", f"image_info_{split}.json")
    choices = [root / name for name in ((annotations,) if annotations else names)]
    file = next((path for path in choices if path.is_file()), choices[0])
    folder = image_folder(root, split) if images is None else root / images
    if not file.is_file():
        others = ", ".join(str(path.relative_to(root)) for path in annotation_files(root)) or "no JSON file"
        raise ValueError(
            f"split: expected the annotation file {file.relative_to(root)} of {split!r} in {root}, got {others}; name "
            "the file with annotations=..."
        )
    if not folder.is_dir():
        raise ValueError(f"images: expected a folder, got {folder}")
    return file, folder


def image_folder(root: Path, split: str) -> Path:
    """The first folder that exists of those in which the images of a split may be; ``root`` itself at last."""
    plain = split.replace("test-dev", "test")  # the images of test-dev2017 are some of test2017
    begun = sorted((path for path in root.glob("*/") if plain.startswith(path.name)), reverse=True)
    choices = [root / split, root / "images" / split, *begun, root / "images"]
    return next((path for path in choices if path.is_dir()), root)


def folder_beside(path: Path) -> Path:
    """The image folder that belongs to an annotation file in its usual layout, for evaluation without a dataset."""
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    return image_folder(root, split_of(path))


def split_of(path: Path) -> str:
    """The split that an annotation file is named after."""
    return path.stem.removeprefix("instances_").removeprefix("image_info_")


def annotation_files(root: Path) -> list[Path]:
    """The JSON files in ``root`` and in ``root/annotations``, sorted; not a record of splits or a table of colours."""
    beside = [path for path in files_in(root, ".json") if path.name not in _OTHERS]
    return sorted([*beside, *files_in(root / "annotations", ".json")])


_OTHERS = ("splits.json", *JSON_FILES, "meta.json")  # the last one is Supervisely's


def instance_files(root: Path) -> list[Path]:
    """Of `annotation_files`, those of instances: the original data has captions and keypoints beside them."""
    files = annotation_files(root)
    return [path for path in files if path.name.startswith("instances_")] or files
