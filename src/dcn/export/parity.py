"""Proof of an export: the file's results beside those of the model it was made from, on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcn import boxes
from dcn.structures import Detections, SegmentationMap

_SAME = 0.9
"""Overlap from which two detections of one class count as the same."""


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that pass.

    Attributes:
        boxes: pixels.
        scores: as they are.
        pixels: share of pixels of masks or segmentation maps.
        unmatched: share of detections without a counterpart.
    """

    boxes: float = 0.1
    scores: float = 1e-3
    pixels: float = 1e-3
    unmatched: float = 0.01


@dataclass(frozen=True)
class Parity:
    """The largest differences.

    Attributes:
        images: number of images compared.
        detections: of the model.
        boxes: pixels.
        scores: as they are.
        pixels: share of pixels that differ, of masks or segmentation maps.
        unmatched: share of detections without a counterpart.
        tolerance: what passes.
    """

    images: int
    detections: int
    boxes: float
    scores: float
    pixels: float
    unmatched: float
    tolerance: Tolerance

    @property
    def failures(self) -> list[str]:
        """What exceeds the tolerance, in words; empty where the export passes."""
        problems = []
        for name in ("boxes", "scores", "pixels", "unmatched"):
            value, limit = getattr(self, name), getattr(self.tolerance, name)
            if not value <= limit:  # NaN fails
                problems.append(f"{name}: {value:.3g} is over {limit:g}")
        return problems

    def __str__(self) -> str:
        if not self.detections:
            return f"{self.images} images: {self.pixels:.2g} of the pixels differ"
        text = f"{self.images} images, {self.detections} detections: boxes differ by {self.boxes:.2g} px at most, "
        text += f"scores by {self.scores:.2g}; {self.unmatched:.2g} have no counterpart"
        return text + (f"; {self.pixels:.2g} of the mask pixels differ" if self.pixels else "")


def compare(
    model: Any, exported: Any, images: Sequence[Tensor], output_sizes: Sequence[tuple[int, int]], tolerance: Tolerance
) -> Parity:
    """Run both models on images and find the largest differences.

    Args:
        model: of this package, in evaluation mode.
        exported: the model of the file.
        images: ``[3, h, w]`` uint8 RGB, resized.
        output_sizes: in whose pixels detections are compared.
        tolerance: what passes.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("images: expected at least one image to compare results on, got none")
    sizes = list(output_sizes) if model.task == "detection" else None
    rows = []
    with torch.no_grad():
        for index, image in enumerate(images):
            words = () if sizes is None else (None, [sizes[index]])
            rows.append(differences(model([image], *words)[0], exported([image], *words)[0]))
    return summary(rows, tolerance)


@dataclass(frozen=True)
class Differences:
    """How two predictions of one image differ.

    Attributes:
        detections: of the first prediction.
        boxes: largest difference, pixels.
        scores: largest difference.
        pixels: share of pixels that differ, of masks or of a segmentation map.
        alone: detections of either without a counterpart.
    """

    detections: int = 0
    boxes: float = 0.0
    scores: float = 0.0
    pixels: float = 0.0
    alone: int = 0


def summary(rows: Sequence[Differences], tolerance: Tolerance) -> Parity:
    """The largest differences of several images."""
    count = sum(row.detections for row in rows)
    alone = sum(row.alone for row in rows)
    moved, scored, pixels = (max(getattr(row, name) for row in rows) for name in ("boxes", "scores", "pixels"))
    return Parity(len(rows), count, moved, scored, pixels, alone / max(count, 1), tolerance)


def differences(first: Detections | SegmentationMap, second: Detections | SegmentationMap) -> Differences:
    """Compare two predictions of one image."""
    if isinstance(first, SegmentationMap):
        assert isinstance(second, SegmentationMap)
        return Differences(pixels=float((first.labels != second.labels).double().mean()))
    assert isinstance(second, Detections)
    return _of_detections(first, second)


def _of_detections(first: Detections, second: Detections) -> Differences:
    if not len(first) or not len(second):
        return Differences(len(first), alone=len(first) + len(second))
    overlap = boxes.iou(first.boxes, second.boxes)
    overlap = torch.where(first.labels[:, None] == second.labels[None], overlap, 0.0)
    # Of equal overlaps the one with the nearest score: detections of one object may follow each other.
    gap = (first.scores[:, None] - second.scores[None]).abs()
    best = torch.where(overlap >= _SAME, gap, torch.inf).argmin(1)
    matched = overlap.gather(1, best[:, None])[:, 0] >= _SAME
    own, other = matched.nonzero()[:, 0], best[matched]
    alone = len(first) - len(own) + len(second) - len(other.unique())
    if not len(own):
        return Differences(len(first), alone=alone)
    moved = float((first.boxes[own] - second.boxes[other]).abs().max())
    scored = float((first.scores[own] - second.scores[other]).abs().max())
    pixels = 0.0
    if first.masks is not None and second.masks is not None:
        pixels = float((first.masks[own] != second.masks[other]).double().mean())
    return Differences(len(first), moved, scored, pixels, alone)
