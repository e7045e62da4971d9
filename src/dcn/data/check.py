"""Everything that is wrong with a folder of data, by the readers that training and evaluation use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dcn.class_names import IGNORE
from dcn.data import auto
from dcn.data.catalog import FORMATS, find_format, options_of
from dcn.data.duplicates import report_duplicates
from dcn.data.findings import CheckOptions, Findings
from dcn.data.format import Format
from dcn.formats.problems import Collector, attempt
from dcn.structures import Sample, Target

__all__ = ["Findings", "check_dataset", "detect_format", "splits_of"]


def detect_format(root: Path) -> str:
    """A key of `FORMATS` such as ``"voc"``, ``"coco"`` or ``"yolo"``, from the layout of a folder.

    ``"voc_segmentation"`` has the layout of ``"voc"`` and must be asked for.

    Raises:
        ValueError: the folder does not exist, or looks like none of them.
    """
    return auto.detect_format(FORMATS, root)


def splits_of(format: str, root: Path) -> list[str]:
    """The splits of a folder in a format; none where it is not in that layout, or for generated data."""
    splits = find_format(format).splits
    return [] if splits is None else splits(root)


def check_dataset(
    root: str | Path,
    format: str | None = None,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    annotations: str | None = None,
    images: str | None = None,
    upright: bool = False,
    colors: Any = None,
    unknown_colors: str = "refuse",
) -> Findings:
    """Find all problems of a folder of data.

    Every annotation is read and every image decoded (by as many threads as there are cores). Reported are: missing,
    broken and truncated images, malformed XML and JSON, missing or wrong fields, boxes outside of their image, reversed
    or without extent, broken or missing segmentations, unknown classes, ids and entries used twice, annotations of
    unknown images, annotated sizes that are not the image's; missing masks, and values in them that stand for no class.

    Args:
        root: the folder.
        format: a format of `dcn.data.catalog.FORMATS`; told from the layout when ``None``.
        split: one split; all of them when ``None``.
        classes: names that are allowed (VOC). When ``None``: the 20 VOC classes if at least half of the objects are of
            them, else any name.
        annotations: annotation file relative to ``root`` (COCO).
        images: image folder relative to ``root`` (COCO).
        upright: photos are turned as their EXIF orientation says.
        colors: what the colours of segmentation masks mean, see `dcn.data.datasets.masks.open_masks`.
        unknown_colors: what becomes of other colours.

    Returns:
        What was seen. A wrong path or format is a problem too; nothing is raised for what the data is like.
    """
    root = Path(root).expanduser()
    collector = Collector()
    format = None if format == auto.AUTO else format
    told = format is None
    if format is None or not root.is_dir():
        detected = attempt(partial(detect_format, root), collector.add, root, "")
        if detected is None:
            return Findings(format or "", 0, {}, collector.problems())
        format = format or detected
    row = find_format(format)
    if row.splits is None:
        raise ValueError(f"format: expected one that has files, got {format!r}, which is generated")
    if colors is not None and "colors" not in options_of(format):
        raise ValueError(f"colors: expected none for {format!r}, which has no such option, got {colors!r}")
    check = row.check or partial(check_by_reading, format, row)
    findings = check(root, split, CheckOptions(classes, annotations, images, upright, colors, unknown_colors))
    if not told:
        return findings
    report_duplicates(root, format, collector.add)
    return replace(findings, layout=row.says, problems=[*findings.problems, *collector.problems()])


def check_by_reading(name: str, row: Format, root: Path, split: str | None, options: CheckOptions) -> Findings:
    """Open every split of a format without a check of its own and read every sample; problems are the errors raised."""
    assert row.splits is not None  # a format that has files
    collector = Collector()
    names = [split] if split is not None else attempt(partial(row.splits, root), collector.add, root, "") or []
    counts: Counter[str] = Counter()
    images = 0
    for part in names:
        dataset = attempt(partial(row.open, root, part), collector.add, root, part)
        for index in range(0 if dataset is None else len(dataset)):
            assert dataset is not None
            images += 1
            sample = attempt(partial(dataset.__getitem__, index), collector.add, dataset.image_path(index) or root, "")
            counts.update(dataset.classes[label] for label in labels_of(sample))
    return Findings(name, images, dict(sorted(counts.items())), collector.problems())


def labels_of(sample: Sample | None) -> list[int]:
    """The label of every object of a sample, or every class of a segmentation mask."""
    target = None if sample is None else sample.target
    if target is None:
        return []
    found = target.labels if isinstance(target, Target) else target.labels.unique()
    return [label for label in found.tolist() if label != IGNORE]
