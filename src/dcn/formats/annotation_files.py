"""Reads annotations for evaluation: a COCO file, or a folder of boxes in a layout that training knows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from dcn.class_names import VOC_CLASSES, check_class_names
from dcn.formats import coco, coco_folders, csv_boxes, labelme, records, voc, voc_files, yolo
from dcn.formats.annotations import AnnotatedImage, AnnotatedObject, Annotations
from dcn.formats.fields import Identifier, identifier, order
from dcn.formats.file_names import posix
from dcn.formats.problems import OutsideBoxes, short
from dcn.formats.splits import SPLITS_FILE, read_splits
from dcn.suggest import counted, one_of

_BOXES: Mapping[str, tuple[Callable[[Path], Iterable[str]], Callable[..., records.BoxFiles]]] = {
    "labelme": (labelme.available_splits, labelme.read_split),
    "voc_files": (voc_files.available_splits, voc_files.read_split),
    "yolo": (yolo.available_splits, yolo.read_split),
    "csv": (csv_boxes.available_splits, csv_boxes.read_split),
}
"""The splits of a folder, and what reads one of them, by format, in the order in which a layout is tried."""

_OF_FOLDERS = (".yaml", ".yml", ".csv", ".xml", ".txt", ".data", ".names")
"""Endings of files that describe data only together with other files."""


def read_annotations(
    path: Path, classes: Sequence[str] | None, split: str | None, *, masks: bool, outside: str = "refuse"
) -> Annotations:
    """Read an annotation file (``.json``), or a folder of boxes in a layout that training knows.

    Args:
        path: the file or folder.
        classes: names in label order; ``None``: as training numbers them.
        split: of a folder; may be left out if there is one or none.
        masks: check the segmentations and keep them.
        outside: a box that reaches outside of its image: ``"refuse"`` it, or ``"clip"`` it to the image.

    Raises:
        ValueError: the first problem, by the same rules and in the same words as for training.
    """
    report = OutsideBoxes(outside, str(path))
    if path.is_dir():
        recorded = read_splits(path / SPLITS_FILE) if (path / SPLITS_FILE).is_file() else None
        if split is None or recorded is None or split not in recorded.images:
            return _read_folder(path, classes, split, report, masks)
        return _part_of(_read_folder(path, classes, None, report, masks), recorded.images[split], split)
    if not path.is_file():
        raise ValueError(
            f"annotations: expected a COCO annotation file or a folder of annotations, got {path}, which does not exist"
        )
    if path.suffix.lower() in _OF_FOLDERS:
        raise ValueError(
            f"annotations: expected a COCO annotation file or a folder of annotations, got {path}, which is one file "
            f"of a folder; name the folder {path.parent}"
        )
    if split is not None:
        raise ValueError(f"split: expected None for an annotation file, got {split!r} with {path}; it is for folders")
    return _read_coco(path, classes, masks, report)


def _part_of(whole: Annotations, names: Sequence[str], split: str) -> Annotations:
    """The images of a recorded split."""
    indices = [whole.by_name(name) for name in names]
    for name, found in zip(names, indices, strict=True):
        if len(found) != 1:
            raise ValueError(
                f"{whole.path / SPLITS_FILE}: expected every image of {split!r} in the data once, got "
                f"{counted(len(found), 'image')} for {name}"
            )
    return replace(whole, images=tuple(whole.images[index] for index in sorted(found[0] for found in indices)))


def _read_folder(
    root: Path, classes: Sequence[str] | None, split: str | None, report: OutsideBoxes, masks: bool
) -> Annotations:
    if root.name == "Annotations" or voc.available_splits(root) or (root / "Annotations").is_dir():
        return _read_voc(root, classes, split, report)
    if names := coco_folders.available_splits(root):
        file = root / _one_split(names, split, root) / coco_folders.FILE
        return _read_coco(file, classes, masks, report, coco_folders.unused_dummy(root))
    for splits_of, read in _BOXES.values():
        if splits := list(splits_of(root)):
            parts = [_one_split(splits, part, root) for part in ([None] if split is None else split.split("+"))]
            return _read_boxes(root, [partial(read, root, part) for part in parts], classes, report)
    files = {coco.split_of(path): path for path in coco.instance_files(root)}
    if not files:
        raise ValueError(
            f"annotations: expected annotations of boxes in a layout that `dcn data check` knows in {root}, got none"
        )
    return _read_coco(files[_one_split(files, split, root)], classes, masks, report)


def _one_split(names: Iterable[str], split: str | None, root: Path) -> str:
    """The split that is meant: the one that is named, or the only one."""
    known = list(names)
    if split is None and len(known) == 1:
        return known[0]
    if split not in known:
        record = root / SPLITS_FILE
        recorded = read_splits(record).images if record.is_file() else ()
        raise ValueError(f"split: expected {one_of([*known, *recorded], '')} in {root}, got {split!r}")
    return split


def _read_boxes(
    root: Path,
    parts: Sequence[Callable[[OutsideBoxes], records.BoxFiles]],
    classes: Sequence[str] | None,
    report: OutsideBoxes,
) -> Annotations:
    files = [read(report) for read in parts]
    found = [records.checked(record, report) for part in files for record in part.records]
    report.warn()
    order_of = _class_order(tuple(dict.fromkeys(name for part in files for name in part.classes)), classes, root)
    label_of = {name: label for label, name in enumerate(order_of)}
    _warn_of_degenerate(root, records.report_degenerate(found, lambda problem: None))
    images = [
        AnnotatedImage(
            identifier(record.name, "image"),
            f"{record.name}{record.image.suffix}",
            PurePosixPath(record.name).name,
            record.size,
            tuple(_box_object(item, label_of[item.name]) for item in record.objects),
        )
        for record in found
    ]
    labels: dict[Identifier, int] = {label: label for label in range(len(order_of))}
    return Annotations(root, order_of, labels, tuple(images), is_voc=False)


def _box_object(item: records.BoxObject, label: int) -> AnnotatedObject:
    x1, y1, x2, y2 = item.box
    box = (x1, y1, x2 - x1, y2 - y1)
    return AnnotatedObject(label, box, box[2] * box[3], item.difficult, item.difficult, item.segmentation)


def _read_coco(
    path: Path,
    classes: Sequence[str] | None,
    masks: bool,
    report: OutsideBoxes,
    left_out: Identifier | None = None,
) -> Annotations:
    file = coco.read_instances(path, coco.folder_beside(path), report, need_images=False, masks=masks)
    report.warn()
    categories = {key: name for key, name in file.categories.items() if key != left_out}
    order_of = _class_order(tuple(categories.values()), classes, path)
    labels = {key: order_of.index(name) for key, name in categories.items()}
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
