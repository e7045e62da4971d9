"""Statistics of segmentation masks: pixels and images of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcn.class_names import IGNORE
from dcn.data.dataset import Dataset
from dcn.data.splitting import target_of
from dcn.structures import SegmentationMap
from dcn.suggest import cells_of, counted, padded


@dataclass(frozen=True)
class PixelCounts:
    """All pixels of a dataset with segmentation masks.

    Attributes:
        classes: names of the labels.
        pixels: ``[C]`` int64, annotated pixels of each class.
        images: ``[C]`` int64, images in which each class occurs.
        annotated: number of images with a mask.
        unlabelled: number of images without one.
        ignored: pixels of 255, which are neither trained nor evaluated.
    """

    classes: tuple[str, ...]
    pixels: Tensor
    images: Tensor
    annotated: int
    unlabelled: int
    ignored: int


def has_masks(datasets: Sequence[Dataset]) -> bool:
    """Whether the first annotation is a segmentation mask; boxes otherwise."""
    targets = (target_of(dataset, index) for dataset in datasets for index in range(len(dataset)))
    return isinstance(next((target for target in targets if target is not None), None), SegmentationMap)


def pixel_counts(datasets: Sequence[Dataset]) -> PixelCounts:
    """Count the pixels of all masks; images are not decoded.

    Raises:
        ValueError: boxes instead of masks, or a label that is no class.
    """
    classes = datasets[0].classes
    pixels, images = (torch.zeros(len(classes), dtype=torch.int64) for _ in range(2))
    annotated = unlabelled = ignored = 0
    for dataset in datasets:
        for index in range(len(dataset)):
            target = target_of(dataset, index)
            if target is None:
                unlabelled += 1
                continue
            if not isinstance(target, SegmentationMap):
                raise ValueError(f"dataset: expected segmentation masks, got boxes in {dataset.name}")
            counts = torch.bincount(target.labels.flatten(), minlength=IGNORE + 1)
            beyond = counts[len(classes) :].nonzero().flatten() + len(classes)
            if wrong := [label for label in beyond.tolist() if label != IGNORE]:
                expected = f"labels 0 to {len(classes) - 1} and {IGNORE}"
                raise ValueError(f"{dataset.name}: image {target.image_id}: expected {expected}, got {wrong[0]}")
            annotated += 1
            pixels += counts[: len(classes)]
            images += counts[: len(classes)] > 0
            ignored += int(counts[IGNORE]) if len(classes) <= IGNORE else 0
    return PixelCounts(tuple(classes), pixels, images, annotated, unlabelled, ignored)


def pixel_statistics(counts: PixelCounts) -> dict[str, Any]:
    """What `pixel_table` prints, for JSON: pixels, their share of those that count, and images by class."""
    total = max(int(counts.pixels.sum()), 1)
    columns = zip(counts.classes, counts.pixels.tolist(), counts.images.tolist(), strict=True)
    return {
        "images": counts.annotated + counts.unlabelled,
        "unlabelled_images": counts.unlabelled,
        "pixels": int(counts.pixels.sum()),
        "ignored_pixels": counts.ignored,
        "classes": {
            name: {"pixels": pixels, "share": round(pixels / total, 6), "images": images}
            for name, pixels, images in columns
        },
    }


def pixel_table(content: Mapping[str, Any]) -> str:
    """The statistics as text: a line for each class, and what no class has."""
    rows = [("", "pixels", "share", "images")]
    for name, entry in content["classes"].items():
        rows.append((name, f"{entry['pixels']:,}", f"{entry['share']:.2%}", f"{entry['images']:,}"))
    widths = [max(cells_of(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([padded(row[0], widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    every = content["pixels"] + content["ignored_pixels"]
    ignored = content["ignored_pixels"] / max(every, 1)
    head = f"{counted(content['images'], 'image')}, {content['unlabelled_images']} without a mask; {every:,} pixels"
    return "\n".join([f"{head}, {ignored:.2%} of them ignored (255)", *lines])
