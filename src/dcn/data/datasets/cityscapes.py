"""Cityscapes: ``leftImg8bit/<split>/<city>`` with ``gtFine/<split>/<city>``, and its result files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dcn.class_names import CITYSCAPES_CLASSES, IGNORE
from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.formats.file_names import is_hidden, safe_path
from dcn.formats.index_masks import IndexReader, MaskFiles
from dcn.formats.layouts import unknown_split

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The id in the dataset's files of each of the 19 classes that are trained; the other ids, 0 to 33, are ignored."""

_IMAGE_END = "_leftImg8bit.png"
_FORMS = ("labelIds", "labelTrainIds")
_QUALITIES = ("gtFine", "gtCoarse")


def open_cityscapes(
    root: str | Path,
    split: str = "train",
    *,
    quality: str = "gtFine",
    form: str = "labelIds",
    unlabelled: str = "refuse",
    upright: bool = False,
    broken: str = "refuse",
) -> SegmentationDataset:
    """Open a split of Cityscapes.

    Args:
        root: the folder with ``leftImg8bit`` and ``gtFine``.
        split: ``train``, ``val``, ``test`` (coarse: also ``train_extra``), or several joined with ``+``.
        quality: ``"gtFine"`` or ``"gtCoarse"``.
        form: ``"labelIds"``, the files as they are delivered, or ``"labelTrainIds"``, written by the dataset's own
            scripts; both give the same classes.
        unlabelled: see `SegmentationDataset`, like the two that follow; ``"keep"`` for the test split without its
            (empty) annotation files.
        upright: turn photos as their EXIF orientation says.
        broken: what to do about damaged images.

    Raises:
        ValueError: no such split, an unknown option, or an image without a mask.
    """
    for name, value, known in (("quality", quality, _QUALITIES), ("form", form, _FORMS)):
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    files = [item for part in split.split("+") for item in _files(Path(root), part, quality, form)]
    table = {index: index for index in range(19)} if form == "labelTrainIds" else label_id_table()
    name, reader = f"{Path(root).name}:{split}", IndexReader(table)
    return SegmentationDataset(
        name, CITYSCAPES_CLASSES, files, reader, unlabelled=unlabelled, upright=upright, broken=broken
    )


def label_id_table() -> dict[int, int]:
    """Label id (0 to 33) to class index, 255 for ids that are not trained."""
    return {label: LABEL_IDS.index(label) if label in LABEL_IDS else IGNORE for label in range(34)}


def to_label_ids(labels: Tensor) -> Tensor:
    """Class indices ``[H, W]`` to the ids that the evaluation server takes; 255 becomes 0 (unlabelled)."""
    lookup = torch.zeros(256, dtype=torch.int64)
    lookup[: len(LABEL_IDS)] = torch.tensor(LABEL_IDS)
    return lookup[labels]


def result_path(folder: Path, image_id: str) -> Path:
    """Where the result of one image goes: ``folder/<city>/<image id>.png``, as the dataset orders its own files."""
    return safe_path(folder, f"{image_id.split('_', maxsplit=1)[0]}/{image_id}", ".png")


def available_splits(root: Path) -> list[str]:
    """Names of the folders below ``leftImg8bit``."""
    folder = root / "leftImg8bit"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _files(root: Path, split: str, quality: str, form: str) -> Sequence[MaskFiles]:
    known = available_splits(root)
    if split not in known:
        raise unknown_split(split, known, root, f"a folder leftImg8bit/{split}")
    files = []
    for image in sorted((root / "leftImg8bit" / split).glob(f"*/*{_IMAGE_END}")):
        if is_hidden(image):
            continue
        stem = image.name.removesuffix(_IMAGE_END)
        mask = root / quality / split / image.parent.name / f"{stem}_{quality}_{form}.png"
        files.append(MaskFiles(image, mask if mask.is_file() else None, stem))
    return files
