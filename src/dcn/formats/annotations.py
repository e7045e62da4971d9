"""Annotations as evaluation needs them: a COCO file or a Pascal VOC folder, read by the readers that training uses.

Both become the same records, so that any result file can be scored by either protocol.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dcn.class_names import VOC_CLASSES, check_class_names
from dcn.formats import coco, voc
from dcn.formats.fields import Identifier, identifier, order
from dcn.formats.file_names import SUFFIXES, posix
from dcn.formats.problems import OutsideBoxes, short
from dcn.suggest import counted, one_of


@dataclass(frozen=True)
class AnnotatedObject:
    """One object.

    Attributes:
        label: index into the classes.
        xywh: ``[x, y, width, height]``, continuous edges.
        area: in pixels², for COCO's size classes.
        crowd: matched freely by COCO's rules.
        difficult: left out by VOC's rules.
        segmentation: polygons or run lengths as in the file, checked.
    """

    label: int
    xywh: tuple[float, ...]
    area: float
    crowd: bool
    difficult: bool
    segmentation: Any = None


@dataclass(frozen=True)
class AnnotatedImage:
    """One image.

    Attributes:
        id: COCO's id or VOC's file stem.
        name: file name with slashes, perhaps with folders; empty where the file has none.
        stem: the last part of the name without its ending.
        size: ``(height, width)``, ``None`` where it is not known.
        objects: its annotations.
    """

    id: Identifier
    name: str
    stem: str
    size: tuple[int, int] | None
    objects: tuple[AnnotatedObject, ...]


@dataclass(frozen=True)
class Annotations:
    """The annotations of a set of images.

    Attributes:
        path: file or folder they came from.
        classes: names of the labels.
        labels: label of each category id of the file; for a VOC folder of 1 .. C.
        images: in the order in which equal scores are ranked.
        is_voc: they came from a VOC folder (numbers in its files are 1-based and inclusive).
    """

    path: Path
    classes: tuple[str, ...]
    labels: dict[Identifier, int]
    images: tuple[AnnotatedImage, ...]
    is_voc: bool
    _by_id: dict[Identifier, int] = field(init=False, repr=False)
    _by_stem: dict[str, list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stems: dict[str, list[int]] = defaultdict(list)
        for number, image in enumerate(self.images):
            if image.stem:
                stems[image.stem].append(number)
        object.__setattr__(self, "_by_id", {image.id: number for number, image in enumerate(self.images)})
        object.__setattr__(self, "_by_stem", dict(stems))

    def by_id(self, key: Identifier) -> int | None:
        """The image with an id."""
        return self._by_id.get(key)

    def by_name(self, name: str) -> list[int]:
        """The images that a file name or stem may mean: those that share most of its last folders.

        One image: that is it. Several: the name is ambiguous.
        """
        path = PurePosixPath(posix(name))
        is_file = path.suffix.lower() in SUFFIXES
        candidates = [*self._by_stem.get(path.name, ()), *(self._by_stem.get(path.stem, ()) if is_file else ())]
        same_ending = [n for n in candidates if PurePosixPath(self.images[n].name).name == path.name]
        common = {n: _common(path, PurePosixPath(self.images[n].name)) for n in same_ending or candidates}
        most = max(common.values(), default=0)
        return [number for number, count in common.items() if count == most]


def _common(first: PurePosixPath, second: PurePosixPath) -> int:
    """How many folders right above the file two paths share."""
    count = 0
    for a, b in zip(reversed(first.parts[:-1]), reversed(second.parts[:-1]), strict=False):
        if a != b:
            break
        count += 1
    return count


def read_annotations(
    path: Path, classes: Sequence[str] | None, split: str | None, *, masks: bool, outside: str = "refuse"
) -> Annotations:
    """Read an annotation file (``.json``) or a VOC folder; images are not needed.

    Args:
        path: the file or folder.
        classes: names in label order; ``None``: as training numbers them.
        split: VOC folder only: the list; may be left out if there is one or none.
        masks: check the segmentations and keep them.
        outside: a box that reaches outside of its image: ``"refuse"`` it, or ``"clip"`` it to the image.

    Raises:
        ValueError: the first problem, by the same rules and in the same words as for training.
    """
    report = OutsideBoxes(outside, str(path))
    if path.is_dir():
        return _read_voc(path, classes, split, report)
    if not path.is_file():
        raise ValueError(
            f"annotations: expected a COCO annotation file or a VOC folder, got {path}, which does not exist"
        )
    if split is not None:
        raise ValueError(
            f"split: expected None for an annotation file, got {split!r} with {path}; it is for VOC folders"
        )
    return _read_coco(path, classes, masks, report)


def _read_coco(path: Path, classes: Sequence[str] | None, masks: bool, report: OutsideBoxes) -> Annotations:
    file = coco.read_instances(path, coco.folder_beside(path), report, need_images=False, masks=masks)
    report.warn()
    order_of = _class_order(tuple(file.categories.values()), classes, path)
    labels = {key: order_of.index(name) for key, name in file.categories.items()}
    _warn_of_degenerate(path, coco.report_degenerate(file, lambda problem: None))
    images = [
        AnnotatedImage(
            record.id,
            posix(record.name),
            PurePosixPath(posix(record.name)).stem,
            record.size,
            tuple(
                AnnotatedObject(
                    labels[item.category], item.xywh, item.area, item.crowd, item.difficult, item.segmentation
                )
                for item in record.objects
            ),
        )
        for record in sorted(file.records, key=lambda record: order(record.id))
    ]
    return Annotations(path, order_of, labels, tuple(images), is_voc=False)


def _read_voc(root: Path, classes: Sequence[str] | None, split: str | None, report: OutsideBoxes) -> Annotations:
    folder = root.parent if root.name == "Annotations" else root
    records = _voc_records(root, folder, split, report)
    report.warn()
    names = voc.find_classes(records)
    order_of: tuple[str, ...]
    if classes is None and set(names) <= set(VOC_CLASSES):
        order_of = VOC_CLASSES
    else:
        used = tuple(sorted({item.name for record in records for item in record.objects}))
        order_of = _class_order(names if classes is None else used, classes, root)
    label_of = {name: label for label, name in enumerate(order_of)}
    _warn_of_degenerate(root, voc.report_degenerate(records, lambda problem: None))
    images = [
        AnnotatedImage(
            identifier(record.stem, "image"),
            f"{record.stem}{record.image.suffix if record.image is not None else '.jpg'}",
            PurePosixPath(record.stem).name,
            record.size,
            tuple(_voc_object(item, label_of[item.name]) for item in record.objects),
        )
        for record in records
    ]
    labels: dict[Identifier, int] = {label + 1: label for label in range(len(order_of))}
    return Annotations(root, order_of, labels, tuple(images), is_voc=True)


def _voc_records(root: Path, folder: Path, split: str | None, report: OutsideBoxes) -> list[voc.VocRecord]:
    """The images that count: those of the split, of the only list there is, or of all annotations."""
    splits = voc.available_splits(folder)
    if split is None and len(splits) > 1:
        raise ValueError(f"split: expected {one_of(splits, '')} in {folder}, got None")
    if split is None and not splits:
        if not (folder / "Annotations").is_dir():
            raise ValueError(f"annotations: expected a VOC folder with Annotations/*.xml, got {root}")
        return voc.read_folder(folder, report)
    return voc.read_split(folder, split or splits[0], report, need_images=False)


def _voc_object(item: voc.VocObject, label: int) -> AnnotatedObject:
    x1, y1, x2, y2 = item.box
    box = (x1, y1, x2 - x1, y2 - y1)
    return AnnotatedObject(label, box, box[2] * box[3], item.difficult, item.difficult)


def _class_order(names: Sequence[str], classes: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    if classes is None:
        return check_class_names(names)
    given = check_class_names(classes)
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"classes: expected every class of {path}, got a list without {short(missing)}")
    return given


def _warn_of_degenerate(path: Path, count: int) -> None:
    """Training skips such boxes; the evaluators count them as objects, and so does this one."""
    if count:
        boxes = counted(count, "box without extent counts as an object", "boxes without extent count as objects")
        warnings.warn(f"{path}: {boxes}; training skips {'it' if count == 1 else 'them'}", stacklevel=4)
