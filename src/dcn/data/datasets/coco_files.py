"""The JSON file of COCO instances, read under suspicion: every field is checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dcn.data.problems import Problem, Report, attempt

# Files round to two decimals and some tools count pixels from 1: a box may pass the image by this much and is clipped.
_TOLERANCE = 1.0


@dataclass(frozen=True)
class CocoObject:
    """One annotation: its id, category id, xyxy box, area in pixels², crowd flag, segmentation as in the file."""

    id: int
    category: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: Any

    @property
    def flat(self) -> bool:
        """Whether the box has no extent: width or height 0."""
        return self.box[2] <= self.box[0] or self.box[3] <= self.box[1]


@dataclass(frozen=True)
class CocoRecord:
    """One image: its number, file, ``(height, width)`` and objects."""

    id: int
    image: Path
    size: tuple[int, int]
    objects: tuple[CocoObject, ...]


@dataclass(frozen=True)
class CocoFile:
    """A whole annotation file after checking: categories ``{id: name}`` in ascending order, and the images.

    ``annotated`` is false for a file ``image_info_*.json`` without annotations: what COCO publishes for test images.
    """

    path: Path
    categories: dict[int, str]
    records: tuple[CocoRecord, ...]
    annotated: bool = True

    @property
    def has_masks(self) -> bool:
        """Whether any object has a segmentation; tools that export boxes alone write none or an empty list."""
        return any(item.segmentation for record in self.records for item in record.objects)


def _integer(entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key!r}: expected an integer, got {_short(value)}")
    return value


def _short(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _numbers(value: object, count: int) -> list[float]:
    """``count`` finite numbers; the upper limit keeps hostile values away from float32."""
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"'bbox': expected {count} numbers [x, y, width, height], got {_short(value)}")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in value):
        raise ValueError(f"'bbox': expected {count} finite numbers, got {_short(value)}")
    return [float(v) for v in value]


def _box(entry: dict[str, Any], size: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, width, height = _numbers(entry.get("bbox"), 4)
    if width < 0 or height < 0:
        raise ValueError(f"'bbox' {entry['bbox']}: width and height must not be negative")
    x2, y2 = x + width, y + height
    if min(x, y) < -_TOLERANCE or x2 > size[1] + _TOLERANCE or y2 > size[0] + _TOLERANCE:
        raise ValueError(
            f"'bbox' {entry['bbox']} lies outside the image of {size[1]}x{size[0]} pixels (width x height)"
        )
    return max(x, 0.0), max(y, 0.0), min(x2, float(size[1])), min(y2, float(size[0]))


def _object(entry: dict[str, Any], size: tuple[int, int]) -> CocoObject:
    box = _box(entry, size)
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ValueError(f"'iscrowd': expected 0 or 1, got {_short(crowd)}")
    area = entry.get("area", (box[2] - box[0]) * (box[3] - box[1]))
    if not isinstance(area, (int, float)) or not 0 <= area < 1e18:
        raise ValueError(f"'area': expected a number of pixels, got {_short(area)}")
    identifier, category = _integer(entry, "id"), _integer(entry, "category_id")
    return CocoObject(identifier, category, box, float(area), bool(crowd), entry.get("segmentation"))


def _entries(data: dict[str, Any], key: str, path: Path, report: Report) -> Iterator[tuple[str, dict[str, Any], int]]:
    """``(place, entry, id)`` of the list ``key``, one of each id."""
    items = data.get(key)
    if not isinstance(items, list):
        report(Problem(path, "", f"{key!r}: expected a list, got {_short(items)}"))
        return
    seen: set[int] = set()
    for number, entry in enumerate(items):
        place = f"{key}[{number}]"
        if not isinstance(entry, dict):
            report(Problem(path, place, f"expected an object {{...}}, got {_short(entry)}"))
            continue
        identifier = attempt(partial(_integer, entry, "id"), report, path, place)
        if identifier in seen:
            report(Problem(path, place, f"id {identifier} is used twice"))
        elif identifier is not None:
            seen.add(identifier)
            yield f"{place} (id {identifier})", entry, identifier


def _categories(data: dict[str, Any], path: Path, report: Report) -> dict[int, str]:
    names: dict[int, str] = {}
    for place, entry, identifier in _entries(data, "categories", path, report):
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            report(Problem(path, place, f"'name': expected a text, got {_short(name)}"))
        elif name in names.values():
            report(Problem(path, place, f"the name {name!r} is used twice"))
        else:
            names[identifier] = name
    return dict(sorted(names.items()))


def _image(entry: dict[str, Any], folder: Path) -> tuple[Path, tuple[int, int]]:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"'file_name': expected a text, got {_short(name)}")
    size = (_integer(entry, "height"), _integer(entry, "width"))
    if min(size) < 1:
        raise ValueError(f"height and width must be positive, got {size[0]} and {size[1]}")
    if not (folder / name).is_file():
        raise ValueError(f"the image {folder / name} does not exist")
    return folder / name, size


def _placed_object(
    entry: dict[str, Any], known: set[str], sizes: dict[int, tuple[int, int]], categories: dict[int, str]
) -> CocoObject | None:
    """One annotation; ``None`` where its image is listed but was itself at fault."""
    image = _integer(entry, "image_id")
    if str(image) not in known:
        raise ValueError(f"image_id {image} is not in 'images'")
    if image not in sizes:
        return None
    item = _object(entry, sizes[image])
    if item.category not in categories:
        raise ValueError(f"unknown class: category_id {item.category} is not in 'categories'")
    return item


def _annotated(data: dict[str, Any], path: Path) -> bool:
    return "annotations" in data or not path.name.startswith("image_info_")


def _annotations(
    data: dict[str, Any], sizes: dict[int, tuple[int, int]], categories: dict[int, str], path: Path, report: Report
) -> dict[int, list[CocoObject]]:
    """The usable objects of each image in ``sizes``; an image that was itself at fault is in neither."""
    images = data.get("images")
    known = {str(entry.get("id")) for entry in images if isinstance(entry, dict)} if isinstance(images, list) else set()
    objects: dict[int, list[CocoObject]] = {identifier: [] for identifier in sizes}
    if not _annotated(data, path):
        return objects
    for place, entry, _ in _entries(data, "annotations", path, report):
        found = attempt(partial(_placed_object, entry, known, sizes, categories), report, path, place)
        if found is not None:
            objects[entry["image_id"]].append(found)
    return objects


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: the file cannot be read, is malformed or nested too deeply, or holds something else.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"the annotation file cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"malformed JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"expected an object with images, categories and annotations, got {_short(data)}")
    return data


def read_instances(path: Path, folder: Path, report: Report) -> CocoFile:
    """Read and check one annotation file whose images lie in ``folder``; what is at fault is reported and left out."""
    data = attempt(partial(read_json, path), report, path, "")
    if data is None:
        return CocoFile(path, {}, ())
    categories = _categories(data, path, report)
    images: dict[int, tuple[Path, tuple[int, int]]] = {}
    for place, entry, identifier in _entries(data, "images", path, report):
        image = attempt(partial(_image, entry, folder), report, path, place)
        if image is not None:
            images[identifier] = image
    sizes = {identifier: size for identifier, (_, size) in images.items()}
    objects = _annotations(data, sizes, categories, path, report)
    records = [CocoRecord(i, image, size, tuple(objects[i])) for i, (image, size) in images.items()]
    return CocoFile(path, categories, tuple(records), _annotated(data, path))


def join(files: Sequence[CocoFile]) -> CocoFile:
    """Several splits as one, under the path of the first.

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
            raise ValueError(f"{other.path}: image id {twice[0]} is in a split before it too; they cannot be joined")
    records = tuple(record for file in files for record in file.records)
    return CocoFile(first.path, first.categories, records, all(file.annotated for file in files))


def flat_boxes(file: CocoFile, report: Report) -> int:
    """Report every box without extent and return how many there are."""
    flat = [item for record in file.records for item in record.objects if item.flat]
    for item in flat:
        report(Problem(file.path, f"annotation id {item.id}", f"box {item.box} (x1, y1, x2, y2) has no extent"))
    return len(flat)


def locate(root: Path, split: str, annotations: str | None, images: str | None) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split; the options name others, relative to ``root``.

    Raises:
        ValueError: one of the three does not exist.
    """
    if not root.is_dir():
        raise ValueError(f"root: {root} is not a folder")
    names = (f"annotations/instances_{split}.json", f"{split}.json", f"annotations/image_info_{split}.json")
    choices = [root / name for name in ((annotations,) if annotations else names)]
    file = next((path for path in choices if path.is_file()), choices[0])
    folder = _image_folder(root, split) if images is None else root / images
    if not file.is_file():
        found = ", ".join(str(path.relative_to(root)) for path in annotation_files(root)) or "no JSON file"
        hint = f"it has {found}; name the file with annotations=..."
        raise ValueError(f"split: {root} has no annotation file {file.relative_to(root)} for {split!r}; {hint}")
    if not folder.is_dir():
        raise ValueError(f"images: {folder} is not a folder")
    return file, folder


def _image_folder(root: Path, split: str) -> Path:
    plain = split.replace("test-dev", "test")  # the images of test-dev2017 are some of test2017
    begun = sorted((path for path in root.glob("*/") if plain.startswith(path.name)), reverse=True)
    choices = [root / split, root / "images" / split, *begun, root / "images"]
    return next((path for path in choices if path.is_dir()), root)


def annotation_files(root: Path) -> list[Path]:
    """The JSON files in ``root`` and in ``root/annotations``, sorted."""
    return sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])


def instance_files(root: Path) -> list[Path]:
    """Of `annotation_files`, those of instances: the original data has captions and keypoints beside them."""
    files = annotation_files(root)
    return [path for path in files if path.name.startswith("instances_")] or files


def size_problem(path: Path, record: CocoRecord, found: tuple[int, int]) -> Problem:
    """An image whose pixels are not of the annotated size; ``found`` is ``(height, width)``."""
    said, is_ = (f"{width}x{height}" for height, width in (record.size, found))
    return Problem(path, f"image id {record.id}", f"the annotation says {said} pixels, {record.image} has {is_}")
