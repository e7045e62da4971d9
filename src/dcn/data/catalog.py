"""The one list of data formats: one row is what opens, lists and checks a format."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dcn.data.auto import AUTO, auto_splits, open_auto
from dcn.data.box_format import box_format
from dcn.data.check_coco import check_coco
from dcn.data.check_segmentation import check_segmentation
from dcn.data.check_voc import check_voc
from dcn.data.dataset import Dataset
from dcn.data.datasets import camvid, cityscapes, folder, masks, voc_segmentation
from dcn.data.datasets.coco import Coco
from dcn.data.datasets.coco_folders import CocoFolders, check_coco_folders
from dcn.data.datasets.outlines import as_segmentation
from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.data.datasets.synthetic import Synthetic
from dcn.data.datasets.voc import Voc
from dcn.data.format import Format
from dcn.formats import coco, coco_folders, csv_boxes, labelme, voc, voc_files, yolo
from dcn.plugins import Table
from dcn.suggest import suggest


def _segmentation(
    name: str,
    open_split: Callable[..., SegmentationDataset],
    splits: Callable[[Path], list[str]],
    says: str,
    recognisable: bool = True,
) -> Format:
    return Format(open_split, splits, partial(check_segmentation, name, open_split, splits), recognisable, says)


def _voc_splits(root: Path) -> list[str]:
    """Without lists, a folder of annotations without images that fit is VOC all the same; its check says what lacks."""
    lists = voc.available_splits(root)
    return lists or (["train"] if (root / "Annotations").is_dir() and not voc_files.available_splits(root) else [])


def _coco_splits(root: Path) -> list[str]:
    return [coco.split_of(path) for path in coco.instance_files(root)]


_OWN: dict[str, Format] = {
    "voc": Format(Voc, _voc_splits, check_voc, True, "Pascal VOC: Annotations, ImageSets/Main, JPEGImages"),
    "labelme": box_format("labelme", labelme.read_split, labelme.available_splits, "images with JSON files of LabelMe"),
    "coco": Format(Coco, _coco_splits, check_coco, True, "COCO: a JSON file for each split, and images", outlines=True),
    "coco_folders": Format(
        CocoFolders,
        coco_folders.available_splits,
        check_coco_folders,
        True,
        "COCO, a folder with images and _annotations.coco.json for each split (Roboflow)",
        outlines=True,
    ),
    "synthetic": Format(Synthetic, None, None, says="generated images"),
    "cityscapes": _segmentation(
        "cityscapes", cityscapes.open_cityscapes, cityscapes.available_splits, "Cityscapes: leftImg8bit and gtFine"
    ),
    "voc_segmentation": _segmentation(
        "voc_segmentation",
        voc_segmentation.open_voc_segmentation,
        voc_segmentation.available_splits,
        "segmentation masks of Pascal VOC",
        False,
    ),
    "camvid": _segmentation("camvid", camvid.open_camvid, camvid.available_splits, "CamVid: <split> and <split>annot"),
    "folder": _segmentation(
        "folder", folder.open_folder, folder.available_splits, "images and masks that dataset.yaml describes"
    ),
    "voc_files": box_format(
        "voc_files",
        voc_files.read_split,
        voc_files.available_splits,
        "images with XML files of Pascal VOC, side by side or in a folder of their own (LabelImg, Roboflow)",
    ),
    "yolo": box_format("yolo", yolo.read_split, yolo.available_splits, "images with text files in YOLO's form"),
    "csv": box_format(
        "csv", csv_boxes.read_split, csv_boxes.available_splits, "CSV files with file, x1, y1, x2, y2, class"
    ),
    "masks": _segmentation("masks", masks.open_masks, masks.available_splits, "images and segmentation masks"),
}

FORMATS = Table("dcn.datasets", _OWN, "dcn.data.Format", lambda row: isinstance(row, Format))
"""All formats by name, in the order in which a layout is tried; those of plug-ins come last."""

FORMATS[AUTO] = Format(
    partial(open_auto, FORMATS), partial(auto_splits, FORMATS), None, False, "told from the layout", True
)

_OTHER_NAMES = {"flat": "degenerate", "maps": "masks", "colours": "colors", "unknown_colours": "unknown_colors"}
"""Options under another name: in run folders of earlier versions, and in British spelling."""


def options_of(format: str) -> tuple[str, ...]:
    """The options that `open_dataset` takes for a format.

    Raises:
        ValueError: an unknown format; names the nearest ones.
    """
    row = find_format(format)
    parameters = inspect.signature(row.open).parameters
    own = (name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY)
    return (*own, "semantic") if row.outlines else tuple(own)


def open_dataset(format: str, root: str | Path | None, split: str, **options: Any) -> Dataset:
    """Open a split of a dataset.

    Args:
        format: a key of `FORMATS`.
        root: its folder; ``None`` for generated data (``synthetic``).
        split: the name of the part, as the format has it.
        options: keyword options of the format, checked by name. With ``semantic=True`` outlines of objects (COCO,
            LabelMe, YOLO polygons) become segmentation masks, see :func:`dcn.data.datasets.outlines.as_segmentation`.

    Raises:
        ValueError: an unknown format or option (names the nearest valid ones), a missing or superfluous ``root``, or
            the first problem of the data.
    """
    row, known = find_format(format), options_of(format)
    options = {_current(name, known): value for name, value in options.items()}
    for name in options:
        if name not in known:
            raise ValueError(f"options: expected those of {format!r}, got {name!r}; {suggest(name, known)}")
    if row.splits is None:
        if root is not None:
            raise ValueError(
                f"root: expected None for {format!r}, which is generated, got {str(root)!r}; leave data.root out, "
                "or read the folder with data.format=auto data.options="
            )
        return row.open(split, **options)
    if root is None:
        raise ValueError(f"root: {format!r} needs the folder of the data, got None")
    semantic = row.outlines and bool(options.pop("semantic", False))
    dataset = row.open(Path(root).expanduser(), split, **(options | {"masks": True} if semantic else options))
    return as_segmentation(dataset) if semantic else dataset


def _current(name: str, known: tuple[str, ...]) -> str:
    today = _OTHER_NAMES.get(name, name)
    return today if name not in known and today in known else name


def find_format(format: str) -> Format:
    """The row of a format.

    Raises:
        ValueError: an unknown format; names the nearest ones.
    """
    if format not in FORMATS:
        raise ValueError(f"format: expected a data format, got {format!r}; {suggest(format, FORMATS)}")
    return FORMATS[format]
