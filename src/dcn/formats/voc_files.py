"""XML annotations of Pascal VOC without its lists: beside the images (LabelImg), or in a folder of their own.

Each file is read by `dcn.formats.voc.read_record`; only the way from an XML file to its image is different.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dcn.formats.documents import read_xml
from dcn.formats.file_names import files_in, image_of, posix, resolve
from dcn.formats.layouts import FolderPair, folder_pairs, unknown_split
from dcn.formats.problems import Problem, Report, attempt
from dcn.formats.records import BoxFiles, BoxObject, BoxRecord, relative_name
from dcn.formats.voc import VocRecord, read_record

FOLDERS = ("annotations", "Annotations", "labels", "xml", "xmls")
"""Names of folders of XML files."""


def available_splits(root: Path) -> dict[str, FolderPair]:
    """The splits of a folder of images and XML files; ``all`` where there is one part."""
    return {name: pair for name, pair in folder_pairs(root, FOLDERS, ".xml").items() if _is_voc(pair)}


def _is_voc(pair: FolderPair) -> bool:
    """Whether the XML files are annotations: of the first ten, one at least is."""
    files = files_in(pair.annotations, ".xml", below=not pair.side_by_side)[:10]
    return any(attempt(partial(read_xml, file, "annotation"), _ignore, file, "") is not None for file in files)


def _ignore(problem: Problem) -> None:
    """A file at fault is reported by whoever reads its split."""


def read_split(root: Path, split: str, report: Report, *, upright: bool = False) -> BoxFiles:
    """The images of a split, several joined with ``+``; the classes are those of all splits, sorted.

    Images without an XML file are no part of the data: LabelImg writes none for an image that was not looked at.

    Raises:
        ValueError: there is no such split, whatever ``report`` does.
    """
    pairs = available_splits(root)
    records: list[BoxRecord] = []
    for part in split.split("+"):
        if part not in pairs:
            raise unknown_split(part, pairs, root, "a folder of images and XML files")
        records += _read_pair(root, pairs[part], report, upright)
    return BoxFiles(_classes(pairs), tuple(records))


def _read_pair(root: Path, pair: FolderPair, report: Report, upright: bool) -> list[BoxRecord]:
    records = []
    for file in files_in(pair.annotations, ".xml", below=not pair.side_by_side):
        image = _image(file, pair)
        if image is None:
            report(Problem(file, "", f"annotates an image that does not exist in {pair.images}", True))
            continue
        record = read_record(relative_name(image, root), image, file, report, upright=upright)
        if record is not None:
            records.append(_box_record(record, image))
    return records


def _image(file: Path, pair: FolderPair) -> Path | None:
    """The image of the name of the XML file, else the one that its ``<filename>`` names."""
    image = image_of(pair.images, file.relative_to(pair.annotations).with_suffix("").as_posix())
    if image is not None:
        return image
    root = attempt(partial(read_xml, file, "annotation"), _ignore, file, "")
    name = "" if root is None else posix((root.findtext("filename") or "").strip()).rsplit("/", 1)[-1]
    return resolve(pair.images, name) if name else None


def _box_record(record: VocRecord, image: Path) -> BoxRecord:
    assert record.size is not None  # the image tells it where the file does not
    objects = (
        BoxObject(f"object {item.number} ({item.name})", item.name, item.box, item.difficult, None, item.degenerate)
        for item in record.objects
    )
    return BoxRecord(record.stem, image, record.annotation, record.size, tuple(objects))


def _classes(pairs: dict[str, FolderPair]) -> tuple[str, ...]:
    names: set[str] = set()
    for pair in pairs.values():
        for file in files_in(pair.annotations, ".xml", below=not pair.side_by_side):
            root = attempt(partial(read_xml, file, "annotation"), _ignore, file, "")
            names |= set() if root is None else {(item.findtext("name") or "").strip() for item in root.iter("object")}
    return tuple(sorted(names - {""}))
