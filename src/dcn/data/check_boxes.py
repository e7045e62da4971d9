"""What is wrong with a folder of boxes that `dcn.formats.records` describes: XML beside images, YOLO, CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from dcn.class_names import check_class_names
from dcn.data.datasets.boxes import ReadSplit
from dcn.data.findings import CheckOptions, Findings, decoded_size, in_threads, note_turned
from dcn.formats.problems import Collector, Problem, attempt
from dcn.formats.records import BoxRecord, report_degenerate, report_unknown_classes, size_problem

Splits = Callable[[Path], Iterable[str]]


def check_boxes(
    name: str, read_split: ReadSplit, splits: Splits, root: Path, split: str | None, options: CheckOptions
) -> Findings:
    """Read every annotation and decode every image of a folder, or of one split.

    Args:
        name: of the format.
        read_split: ``read_split(root, split, report, upright=...)``.
        splits: the splits of a folder.
        root: the folder.
        split: one split; ``None``: all.
        options: the classes that are allowed, and ``upright``.
    """
    collector = Collector()
    report = collector.add
    allowed = None if options.classes is None else check_class_names(options.classes)
    names = [split] if split is not None else attempt(lambda: list(splits(root)), report, root, "") or []
    if not names and not collector.problems():
        report(Problem(root, "", f"there is no split in the layout of {name!r}"))
    records: list[BoxRecord] = []
    for part in names:
        files = attempt(partial(read_split, root, part, report, upright=options.upright), report, root, "")
        if files is not None:
            records += files.records
            if allowed is not None:
                report_unknown_classes(files, allowed, report)
    report_degenerate(records, report)
    in_threads((partial(_image_problem, record, options.upright) for record in records), report)
    counts = Counter(item.name for record in records for item in record.objects)
    notes = [] if options.upright else note_turned(record.image for record in records)
    return Findings(name, len(records), dict(sorted(counts.items())), collector.problems(), notes)


def _image_problem(record: BoxRecord, upright: bool) -> Problem | None:
    size = decoded_size(record.image, upright)
    if isinstance(size, Problem):
        return size
    return size_problem(record, size) if size != record.size else None
