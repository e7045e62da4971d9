"""Everything that is wrong with a folder of data, found in one pass with the readers that loading uses."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcn.class_names import VOC_CLASSES
from dcn.data.check_maps import MAP_FORMATS, check_split, splits_of
from dcn.data.datasets import coco_files, voc_files
from dcn.data.datasets.coco_files import CocoFile
from dcn.data.datasets.voc_files import VocRecord
from dcn.data.images import read_image
from dcn.data.masks import decode_mask
from dcn.data.problems import Problem, Report, attempt


@dataclass(frozen=True)
class Findings:
    """What a check saw.

    Attributes:
        format: of the folder; empty where nothing could be told.
        images: images looked at.
        objects: objects that can be used, by class name; for label maps the images in which the class occurs.
        problems: all faults, in the order of the files.
    """

    format: str
    images: int
    objects: dict[str, int]
    problems: list[Problem]


def detect_format(root: Path) -> str:
    """``"voc"``, ``"coco"``, ``"cityscapes"``, ``"camvid"`` or ``"folder"``, from the layout of a folder.

    ``"voc_segmentation"`` has the layout of ``"voc"`` and must be asked for.

    Raises:
        ValueError: the folder does not exist, or looks like none of them.
    """
    if not root.is_dir():
        raise ValueError("the folder does not exist" if not root.exists() else "expected a folder, got a file")
    if voc_files.available_splits(root) or (root / "Annotations").is_dir():
        return "voc"
    if coco_files.instance_files(root):
        return "coco"
    if found := [format for format in ("cityscapes", "camvid", "folder") if splits_of(format, root)]:
        return found[0]
    raise ValueError(
        "cannot tell the format: expected ImageSets/Main/*.txt with Annotations (voc), a VOCdevkit (voc), "
        "annotations/instances_*.json or *.json (coco), leftImg8bit (cityscapes), <split> and <split>annot (camvid), "
        "or dataset.yaml (folder)"
    )


def check_dataset(
    root: str | Path,
    format: str | None = None,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    annotations: str | None = None,
    images: str | None = None,
) -> Findings:
    """Find all problems of a folder of data.

    Every annotation is read and every image decoded (by as many threads as there are cores). Reported are: missing,
    broken and truncated images, malformed XML and JSON, missing or wrong fields, boxes outside their image, reversed or
    without extent, broken segmentations, unknown classes, ids and entries used twice, annotations of unknown images,
    annotated sizes that are not the image's; missing label maps, and values in them that stand for no class.

    Args:
        root: the folder.
        format: ``"voc"``, ``"coco"`` or a format of label maps; told from the layout when ``None``.
        split: one split; all of them when ``None``.
        classes: names that are allowed (VOC). When ``None``: the 20 VOC classes if at least half of the objects are of
            them, else any name.
        annotations: annotation file relative to ``root`` (COCO).
        images: image folder relative to ``root`` (COCO).

    Returns:
        What was seen. A wrong path or format is a problem too; nothing is raised for what the data is like.
    """
    root = Path(root)
    problems: list[Problem] = []
    if format not in (None, "voc", "coco", *MAP_FORMATS):
        raise ValueError(f"format: expected 'voc', 'coco' or one of {', '.join(MAP_FORMATS)}, got {format!r}")
    found = attempt(partial(detect_format, root), problems.append, root, "")
    if found is None and (format is None or not root.is_dir()):
        return Findings(format or "", 0, {}, problems)
    problems.clear()
    if (format or found) == "voc":
        return _check_voc(root, split, classes)
    if (kind := format or found) in MAP_FORMATS:
        return _check_maps(root, kind, split)
    return _check_coco(root, split, annotations, images)


def _check_maps(root: Path, format: str, split: str | None) -> Findings:
    problems: list[Problem] = []
    splits = [split] if split is not None else splits_of(format, root)
    if not splits:
        problems.append(Problem(root, "", f"there is no split in the layout of {format!r}"))
    images, counts = 0, Counter[str]()
    for name in splits:
        found = attempt(partial(check_split, root, format, name, problems.append), problems.append, root, "")
        if found is not None:
            images += found[0]
            counts += found[1]
    return Findings(format, images, dict(sorted(counts.items())), list(dict.fromkeys(problems)))


def _check_voc(root: Path, split: str | None, classes: Sequence[str] | None) -> Findings:
    problems: list[Problem] = []
    records: dict[Path, VocRecord] = {}
    splits = [split] if split is not None else voc_files.available_splits(root)
    if not splits:
        problems.append(Problem(root / "ImageSets" / "Main", "", "there is no list of images (*.txt)"))
    for name in splits:
        listed = attempt(partial(voc_files.read_split, root, name, problems.append), problems.append, root, "") or []
        records |= {record.annotation: record for record in listed}
    if split is None:
        records |= _unlisted(records, problems.append)
    kept = list(records.values())
    counts = Counter(item.name for record in kept for item in record.objects)
    voc_files.unknown_classes(kept, _allowed(counts, classes), problems.append)
    voc_files.flat_boxes(kept, problems.append)
    _check_images((partial(_voc_image, record) for record in kept), problems.append)
    known = {record.image for record in kept}
    folders = {path.parent for path in known} if split is None else set()
    others = [path for folder in sorted(folders) for path in sorted(folder.iterdir()) if path not in known]
    pictures = [path for path in others if path.suffix in voc_files.SUFFIXES]
    _check_images((partial(_broken, path) for path in pictures), problems.append)
    return Findings("voc", len(kept), dict(sorted(counts.items())), list(dict.fromkeys(problems)))


def _unlisted(records: dict[Path, VocRecord], report: Report) -> dict[Path, VocRecord]:
    """Records of the annotation files beside those of the lists, broken ones once more: reports are made unique."""
    found = {}
    for folder in sorted({path.parent for path in records}):
        for path in sorted(set(folder.glob("*.xml")) - records.keys()):
            image = voc_files.image_file(folder.parent, path.stem)
            if not image.is_file():
                report(Problem(path, "", f"annotates an unknown image: {image} does not exist"))
            elif (record := voc_files.read_record(image, path, report)) is not None:
                found[path] = record
    return found


def _broken(path: Path) -> Problem | None:
    found = _decoded_size(path)
    return found if isinstance(found, Problem) else None


def _allowed(counts: Counter[str], classes: Sequence[str] | None) -> Sequence[str]:
    if classes is not None:
        return classes
    standard = sum(count for name, count in counts.items() if name in VOC_CLASSES)
    return VOC_CLASSES if 2 * standard >= counts.total() else sorted(counts)


def _voc_image(record: VocRecord) -> Problem | None:
    found = _decoded_size(record.image)
    if isinstance(found, Problem):
        return found
    return voc_files.size_problem(record, found) if found != record.size else None


def _check_coco(root: Path, split: str | None, annotations: str | None, images: str | None) -> Findings:
    problems: list[Problem] = []
    files = []
    for name, file in _coco_splits(root, split, annotations):
        place = attempt(partial(coco_files.locate, root, name, file, images), problems.append, root, "")
        if place is not None:
            files.append(coco_files.read_instances(*place, problems.append))
    counts: Counter[str] = Counter()
    for read in files:
        counts.update(read.categories[item.category] for record in read.records for item in record.objects)
        coco_files.flat_boxes(read, problems.append)
        if read.has_masks:
            _check_masks(read, problems.append)
        sizes = (partial(_coco_image, read.path, record) for record in read.records)
        _check_images(sizes, problems.append)
    total = sum(len(read.records) for read in files)
    return Findings("coco", total, dict(sorted(counts.items())), problems)


def _coco_splits(root: Path, split: str | None, annotations: str | None) -> list[tuple[str, str | None]]:
    """Split names and, where it is not the one the name leads to, the annotation file."""
    if split is not None or annotations is not None:
        names = split or Path(annotations or "").stem.removeprefix("instances_")
        return [(name, annotations) for name in names.split("+")]
    paths = coco_files.instance_files(root)
    if not paths:
        return [("train", None)]  # which is not there: locating it says so
    return [(path.stem.removeprefix("instances_"), str(path.relative_to(root))) for path in paths]


def _coco_image(path: Path, record: coco_files.CocoRecord) -> Problem | None:
    found = _decoded_size(record.image)
    if isinstance(found, Problem):
        return found
    return coco_files.size_problem(path, record, found) if found != record.size else None


def _check_masks(file: CocoFile, report: Report) -> None:
    for record in file.records:
        for item in record.objects:
            decode = partial(decode_mask, item.segmentation, record.size)
            attempt(decode, report, file.path, f"annotation id {item.id}")


def _decoded_size(path: Path) -> tuple[int, int] | Problem:
    try:
        height, width = read_image(path).shape[1:]
    except ValueError as error:
        return Problem(path, "", str(error).removeprefix(f"{path}: "))
    return height, width


def _check_images(checks: Iterable[Callable[[], Problem | None]], report: Report) -> None:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for problem in pool.map(lambda check: check(), checks):
            if problem is not None:
                report(problem)
