"""The one list of data formats: one row is what opens, lists and checks a format."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dcn.data.check_coco import check_coco
from dcn.data.check_segmentation import check_segmentation
from dcn.data.check_voc import check_voc
from dcn.data.dataset import Dataset
from dcn.data.datasets import camvid, cityscapes, folder, voc_segmentation
from dcn.data.datasets.coco import Coco
from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.data.datasets.synthetic import Synthetic
from dcn.data.datasets.voc import Voc
from dcn.data.findings import CheckOptions, Findings
from dcn.formats import coco, voc
from dcn.suggest import suggest


@dataclass(frozen=True)
class Format:
    """A row of the catalog.

    Attributes:
        open: ``open(root, split, **options)``, or ``open(split, **options)`` for generated data; what follows root and
            split in its signature are the options of the format.
        splits: the splits of a folder; empty where the folder is not in this layout. ``None``: generated data.
        check: everything that is wrong with a folder.
        recognisable: whether the layout tells the format; one that looks like another must be named.
    """

    open: Callable[..., Dataset]
    splits: Callable[[Path], list[str]] | None
    check: Callable[[Path, str | None, CheckOptions], Findings] | None
    recognisable: bool = True


def _segmentation(
    name: str,
    open_split: Callable[..., SegmentationDataset],
    splits: Callable[[Path], list[str]],
    recognisable: bool = True,
) -> Format:
    return Format(open_split, splits, partial(check_segmentation, name, open_split, splits), recognisable)


def _voc_splits(root: Path) -> list[str]:
    """Without lists, a folder of annotations is VOC all the same; its check says that the lists are missing."""
    return voc.available_splits(root) or (["train"] if (root / "Annotations").is_dir() else [])


def _coco_splits(root: Path) -> list[str]:
    return [coco.split_of(path) for path in coco.instance_files(root)]


FORMATS: dict[str, Format] = {
    "voc": Format(Voc, _voc_splits, check_voc),
    "coco": Format(Coco, _coco_splits, check_coco),
    "synthetic": Format(Synthetic, None, None),
    "cityscapes": _segmentation("cityscapes", cityscapes.open_cityscapes, cityscapes.available_splits),
    "voc_segmentation": _segmentation(
        "voc_segmentation", voc_segmentation.open_voc_segmentation, voc_segmentation.available_splits, False
    ),
    "camvid": _segmentation("camvid", camvid.open_camvid, camvid.available_splits),
    "folder": _segmentation("folder", folder.open_folder, folder.available_splits),
}
"""All formats by name, in the order in which a layout is tried."""

_EARLIER_OPTIONS = {"flat": "degenerate", "maps": "masks"}
"""Options that run folders of earlier versions hold under another name."""


def options_of(format: str) -> tuple[str, ...]:
    """The options that `open_dataset` takes for a format.

    Raises:
        ValueError: an unknown format; names the nearest ones.
    """
    parameters = inspect.signature(find_format(format).open).parameters
    return tuple(name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY)


def open_dataset(format: str, root: str | Path | None, split: str, **options: Any) -> Dataset:
    """Open a split of a dataset.

    Args:
        format: a key of `FORMATS`.
        root: its folder; ``None`` for generated data (``synthetic``).
        split: the name of the part, as the format has it.
        options: keyword options of the format, checked by name.

    Raises:
        ValueError: an unknown format or option (names the nearest valid ones), a missing or superfluous ``root``, or
            the first problem of the data.
    """
    row, known = find_format(format), options_of(format)
    options = {_current(name, known): value for name, value in options.items()}
    for name in options:
        if name not in known:
            raise ValueError(f"options: {format!r} has no option {name!r}; {suggest(name, known)}")
    if row.splits is None:
        if root is not None:
            raise ValueError(f"root: {format!r} is generated and has no folder, got {str(root)!r}; leave it out")
        return row.open(split, **options)
    if root is None:
        raise ValueError(f"root: {format!r} needs the folder of the data, got None")
    return row.open(Path(root).expanduser(), split, **options)


def _current(name: str, known: tuple[str, ...]) -> str:
    today = _EARLIER_OPTIONS.get(name, name)
    return today if name not in known and today in known else name


def find_format(format: str) -> Format:
    """The row of a format.

    Raises:
        ValueError: an unknown format; names the nearest ones.
    """
    if format not in FORMATS:
        raise ValueError(f"format: unknown data format {format!r}; {suggest(format, FORMATS)}")
    return FORMATS[format]
