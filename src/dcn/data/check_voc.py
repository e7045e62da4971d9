"""What is wrong with a folder in the Pascal VOC layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dcn.class_names import VOC_CLASSES, check_class_names
from dcn.data.findings import CheckOptions, Findings, decoded_size, decoding_problem, in_threads, note_turned
from dcn.formats import voc
from dcn.formats.file_names import files_in, image_files
from dcn.formats.problems import Collector, Problem, Report, attempt
from dcn.formats.voc import VocRecord


def check_voc(root: Path, split: str | None, options: CheckOptions) -> Findings:
    """Read every annotation and decode every image of a folder, or of one split."""
    allowed = None if options.classes is None else check_class_names(options.classes)
    collector = Collector()
    report = collector.add
    records: dict[Path, VocRecord] = {}
    splits = [split] if split is not None else voc.available_splits(root)
    if not splits:
        report(Problem(root / "ImageSets" / "Main", "", "there is no list of images (*.txt)"))
    for name in splits:
        read = partial(voc.read_split, root, name, report, upright=options.upright)
        records |= {record.annotation: record for record in attempt(read, report, root, "") or []}
    if split is None:
        records |= _unlisted(records, report, options.upright)
    kept = list(records.values())
    counts = Counter(item.name for record in kept for item in record.objects)
    voc.report_unknown_classes(kept, _allowed(counts, allowed), report)
    voc.report_degenerate(kept, report)
    in_threads((partial(_image_problem, record, options.upright) for record in kept), report)
    known = {record.image for record in kept if record.image is not None}
    folders = sorted({path.parent for path in known}) if split is None else []
    others = [path for folder in folders for path in image_files(folder) if path not in known]
    in_threads((partial(decoding_problem, path) for path in others), report)
    notes = [] if options.upright else note_turned(known)
    return Findings("voc", len(kept), dict(sorted(counts.items())), collector.problems(), notes)


def _unlisted(records: dict[Path, VocRecord], report: Report, upright: bool) -> dict[Path, VocRecord]:
    """Records of the annotation files beside those of the lists; broken ones are reported once by the collector."""
    more = {}
    for folder in sorted({path.parent for path in records}):
        for path in files_in(folder, ".xml"):
            if path in records:
                continue
            image = voc.image_file(folder.parent, path.stem)
            if not image.is_file():
                report(Problem(path, "", f"annotates an unknown image: {image} does not exist"))
            elif (record := voc.read_record(path.stem, image, path, report, upright=upright)) is not None:
                more[path] = record
    return more


def _allowed(counts: Counter[str], classes: Sequence[str] | None) -> Sequence[str]:
    if classes is not None:
        return classes
    standard = sum(count for name, count in counts.items() if name in VOC_CLASSES)
    return VOC_CLASSES if 2 * standard >= counts.total() else sorted(counts)


def _image_problem(record: VocRecord, upright: bool) -> Problem | None:
    assert record.image is not None  # the reader was asked for images
    size = decoded_size(record.image, upright)
    if isinstance(size, Problem):
        return size
    return voc.size_problem(record, size) if size != record.size else None
