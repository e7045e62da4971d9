"""A format of boxes from its reader alone: what opens, lists and checks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from dcn.data.check_boxes import check_boxes
from dcn.data.datasets.boxes import ReadSplit, open_boxes
from dcn.data.format import Format
from dcn.formats.layouts import unknown_split
from dcn.formats.problems import Report
from dcn.formats.records import BoxFiles, checked


def box_format(name: str, read: ReadSplit, splits: Callable[[Path], Iterable[str]], says: str = "") -> Format:
    """A row of the catalog for a format of images with named boxes, or polygons.

    Args:
        name: of the row.
        read: ``read(root, split, report, upright=...)`` gives the :class:`BoxFiles` of one split. It hands each problem
            to ``report`` and leaves the entry out; training stops at the first, ``dcn data check`` lists all of them.
        splits: the names of the splits of a folder; none where the folder is not in this layout.
        says: the layout in words.
    """
    whole = partial(_read_parts, read, splits, says or f"a folder of the format {name}")
    return Format(
        partial(open_boxes, whole),
        lambda root: list(splits(root)),
        partial(check_boxes, name, whole, splits),
        True,
        says,
        True,
    )


def _read_parts(
    read: ReadSplit,
    splits: Callable[[Path], Iterable[str]],
    layout: str,
    root: Path,
    split: str,
    report: Report,
    *,
    upright: bool = False,
) -> BoxFiles:
    """Several splits that are joined with ``+``; a box that is none, or outside of its image, is reported.

    Raises:
        ValueError: there is no such split, whatever ``report`` does.
    """
    known = list(splits(root))
    for part in split.split("+"):
        if part not in known:
            raise unknown_split(part, known, root, layout)
    parts = [read(root, part, report, upright=upright) for part in split.split("+")]
    classes = dict.fromkeys(name for part in parts for name in part.classes)
    return BoxFiles(tuple(classes), tuple(checked(record, report) for part in parts for record in part.records))
