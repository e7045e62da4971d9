"""Proof of an export: the file's results beside those of the model it was made from, on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcn import boxes
from dcn.structures import Detections

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
    with torch.no_grad():
        if model.task == "segmentation":
            pairs = zip(model(list(images)), exported(list(images)), strict=True)
            shares = [float((a.labels != b.labels).double().mean()) for a, b in pairs]
            return Parity(len(images), 0, 0.0, 0.0, max(shares), 0.0, tolerance)
        sizes = list(output_sizes)
        pairs = zip(model(list(images), None, sizes), exported(list(images), None, sizes), strict=True)
        rows = [_differences(a, b) for a, b in pairs]
    counts = sum(row[0] for row in rows)
    alone = sum(row[4] for row in rows)
    moved, scored, pixels = (max(row[index] for row in rows) for index in (1, 2, 3))
    return Parity(len(images), counts, moved, scored, pixels, alone / max(counts, 1), tolerance)


def _differences(first: Detections, second: Detections) -> tuple[int, float, float, float, int]:
    """Number of detections; largest difference of boxes, scores, mask pixels; detections of either without a match."""
    if not len(first) or not len(second):
        return len(first), 0.0, 0.0, 0.0, len(first) + len(second)
    overlap = boxes.iou(first.boxes, second.boxes)
    overlap = torch.where(first.labels[:, None] == second.labels[None], overlap, 0.0)
    # Of equal overlaps the one with the nearest score: detections of one object may follow each other.
    gap = (first.scores[:, None] - second.scores[None]).abs()
    best = torch.where(overlap >= _SAME, gap, torch.inf).argmin(1)
    matched = overlap.gather(1, best[:, None])[:, 0] >= _SAME
    own, other = matched.nonzero()[:, 0], best[matched]
    alone = len(first) - len(own) + len(second) - len(other.unique())
    if not len(own):
        return len(first), 0.0, 0.0, 0.0, alone
    moved = float((first.boxes[own] - second.boxes[other]).abs().max())
    scored = float((first.scores[own] - second.scores[other]).abs().max())
    pixels = 0.0
    if first.masks is not None and second.masks is not None:
        pixels = float((first.masks[own] != second.masks[other]).double().mean())
    return len(first), moved, scored, pixels, alone
