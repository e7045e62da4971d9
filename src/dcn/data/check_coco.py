"""What is wrong with a folder of COCO instances."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from dcn.data.findings import CheckOptions, Findings, decoded_size, in_threads, note_turned
from dcn.formats import coco
from dcn.formats.problems import Collector, Problem, Report, attempt


def check_coco(root: Path, split: str | None, options: CheckOptions) -> Findings:
    """Read every annotation and decode every image of a folder, or of one split."""
    collector = Collector()
    report = collector.add
    files = []
    for name, file in _splits(root, split, options.annotations):
        locate = partial(coco.locate, root, name, file, options.images)
        source = attempt(locate, report, root, "")
        if source is not None:
            files.append(coco.read_instances(*source, report, upright=options.upright))
    counts: Counter[str] = Counter()
    total, notes = 0, list[str]()
    for read in files:
        coco.report_degenerate(read, report)
        images, objects, more = check_file(read, report, options.upright)
        total, counts, notes = total + images, counts + objects, notes + more
    return Findings("coco", total, dict(sorted(counts.items())), collector.problems(), notes)


def check_file(file: coco.CocoFile, report: Report, upright: bool) -> tuple[int, Counter[str], list[str]]:
    """Decode the images of a file: how many there are, the objects by class, and notes."""
    counts = Counter(file.categories[item.category] for record in file.records for item in record.objects)
    in_threads((partial(_image_problem, file.path, record, upright) for record in file.records), report)
    images = [record.image for record in file.records if record.image is not None]
    return len(file.records), counts, [] if upright else note_turned(images)


def _splits(root: Path, split: str | None, annotations: str | None) -> list[tuple[str, str | None]]:
    """Split names and, where it is not the one the name leads to, the annotation file."""
    if split is not None or annotations is not None:
        names = split or coco.split_of(Path(annotations or ""))
        return [(name, annotations) for name in names.split("+")]
    paths = coco.instance_files(root)
    if not paths:
        return [("train", None)]  # which is not there: locating it says so
    return [(coco.split_of(path), str(path.relative_to(root))) for path in paths]


def _image_problem(path: Path, record: coco.CocoRecord, upright: bool) -> Problem | None:
    assert record.image is not None  # the reader was asked for images
    size = decoded_size(record.image, upright)
    if isinstance(size, Problem):
        return size
    return coco.size_problem(path, record, size) if size != record.size else None
