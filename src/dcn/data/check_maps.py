"""What is wrong with a folder of images and label maps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from dcn.data.datasets import camvid, cityscapes, folder, voc_segmentation
from dcn.data.datasets.label_maps import LabelMaps, missing_labels, size_problem
from dcn.data.geometry import IGNORE
from dcn.data.images import read_image
from dcn.data.problems import Problem, Report

MAP_FORMATS: dict[str, tuple[Callable[..., LabelMaps], Callable[[Path], list[str]]]] = {
    "cityscapes": (cityscapes.open_cityscapes, cityscapes.available_splits),
    "voc_segmentation": (voc_segmentation.open_voc_segmentation, voc_segmentation.available_splits),
    "camvid": (camvid.open_camvid, camvid.available_splits),
    "folder": (folder.open_folder, folder.available_splits),
}
"""Formats of label maps: what opens a split, and what lists the splits of a folder."""


def splits_of(format: str, root: Path) -> list[str]:
    """The splits of a folder in one of `MAP_FORMATS`; none where it is not in that layout."""
    return MAP_FORMATS[format][1](root)


def check_split(root: Path, format: str, split: str, report: Report) -> tuple[int, Counter[str]]:
    """Read every image and label map of a split.

    Returns:
        The number of images, and in how many of them each class occurs.

    Raises:
        ValueError: the split cannot be opened at all.
    """
    dataset = MAP_FORMATS[format][0](root, split, unlabelled="keep")
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for found, problem in pool.map(partial(_check_image, dataset), range(len(dataset))):
            counts.update(dataset.classes[label] for label in found)
            if problem is not None:
                report(problem)
    return len(dataset), counts


def _check_image(dataset: LabelMaps, index: int) -> tuple[list[int], Problem | None]:
    """The classes of one image, and its first problem."""
    item = dataset.files[index]
    file = item.image
    try:
        height, width = read_image(item.image).shape[1:]
        file = item.labels or item.image
        target = dataset.target(index)
    except ValueError as error:
        return [], Problem(file, "", str(error).removeprefix(f"{file}: "))
    if target is None:
        return [], missing_labels(item)
    if target.labels.shape != (height, width):
        return [], size_problem(item, target, (height, width))
    return [label for label in torch.unique(target.labels).tolist() if label != IGNORE], None
