"""Proof of an export: the file's results beside those of the model it was made from, on images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcn import boxes
from dcn.structures import Detections, SegmentationMap
from dcn.suggest import counted


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that pass.

    Attributes:
        boxes: pixels.
        scores: as they are.
        pixels: share of pixels of masks or segmentation maps.
        unmatched: share of detections without a counterpart.
        overlap: from which two detections of one class are counterparts.
    """

    boxes: float = 0.1
    scores: float = 1e-3
    pixels: float = 1e-3
    unmatched: float = 0.01
    overlap: float = 0.9


TOLERANCES = {
    "float32": Tolerance(),
    "float16": Tolerance(math.inf, 0.2, 0.05, 0.1, overlap=0.7),
    "int8": Tolerance(math.inf, math.inf, 0.3, 0.5, overlap=0.5),
}
"""What passes by precision. Half precision and integers cost accuracy, which the report states; these limits find files
that are broken."""


_SAME = 0.5
"""Pixels by which the coordinates of a box may differ from those of its counterpart however little both overlap."""
OWN = 3.0
"""How many times the model's own rounding a file may differ by, to be called undecided."""
_ARBITRARY = "the last digits of a number decide results of this model, as of one that was never trained: no proof"


@dataclass(frozen=True)
class Parity:
    """The largest differences.

    Attributes:
        images: number of images compared.
        detections: of the model; ``None`` for a segmentation model.
        boxes: pixels.
        scores: as they are.
        pixels: share of pixels that differ, of masks or segmentation maps.
        unmatched: share of detections without a counterpart.
        tolerance: what passes.
        mean_boxes: mean difference of the coordinates of boxes, pixels.
        mean_scores: mean difference of scores.
        rounding: the same between two forms of the model itself that differ in rounding alone; ``None`` where the
            differences pass.
    """

    images: int
    detections: int | None
    boxes: float
    scores: float
    pixels: float
    unmatched: float
    tolerance: Tolerance
    mean_boxes: float = 0.0
    mean_scores: float = 0.0
    rounding: Parity | None = None

    @property
    def failures(self) -> list[str]:
        """What exceeds the tolerance, in words; empty where the export passes."""
        problems = []
        for name in ("boxes", "scores", "pixels", "unmatched"):
            value, limit = getattr(self, name), getattr(self.tolerance, name)
            if not value <= limit:  # NaN fails
                problems.append(f"{name}: {value:.3g} is over {limit:g}")
        return problems

    @property
    def undecided(self) -> bool:
        """Whether it fails, but by no more than `OWN` times what rounding alone changes in the model itself."""
        if not self.failures or self.rounding is None:
            return False
        names = [text.partition(":")[0] for text in self.failures]
        return all(getattr(self, name) <= OWN * getattr(self.rounding, name) for name in names)

    def __str__(self) -> str:
        text = f"{counted(self.images, 'image')}: {100 * self.pixels:.2g} % of the pixels differ"
        if self.detections is not None:
            text = self._of_detections()
        if self.rounding is None:
            return text
        return f"{text}\nthe model alone, with batch norm folded or not: {self.rounding}\n{_ARBITRARY}"

    def _of_detections(self) -> str:
        text = f"{counted(self.images, 'image')}, {self.detections} detections: boxes differ by {self.boxes:.2g} px "
        text += f"at most (mean {self.mean_boxes:.2g}), scores by {self.scores:.2g} (mean {self.mean_scores:.2g}); "
        text += f"{100 * self.unmatched:.2g} % have no counterpart"
        return text + (f"; {100 * self.pixels:.2g} % of the mask pixels differ" if self.pixels else "")


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
            rows.append(differences(model([image], *words)[0], exported([image], *words)[0], tolerance.overlap))
    return summary(rows, tolerance)


@dataclass(frozen=True)
class Differences:
    """How two predictions of one image differ.

    Attributes:
        detections: of the first prediction; ``None`` for a segmentation map.
        boxes: differences of the coordinates of boxes in pixels, ``[M, 4]``.
        scores: differences of scores, ``[M]``.
        pixels: share of pixels that differ, of masks or of a segmentation map.
        alone: detections of either without a counterpart.
    """

    detections: int | None
    boxes: Tensor
    scores: Tensor
    pixels: float = 0.0
    alone: int = 0


def summary(rows: Sequence[Differences], tolerance: Tolerance) -> Parity:
    """The largest differences of several images."""
    counts = [row.detections for row in rows if row.detections is not None]
    moved, scored = (torch.cat([getattr(row, name) for row in rows]).double() for name in ("boxes", "scores"))
    return Parity(
        images=len(rows),
        detections=sum(counts) if counts else None,
        boxes=float(moved.max()) if moved.numel() else 0.0,
        scores=float(scored.max()) if scored.numel() else 0.0,
        pixels=max(row.pixels for row in rows),
        unmatched=sum(row.alone for row in rows) / max(sum(counts), 1),
        tolerance=tolerance,
        mean_boxes=float(moved.mean()) if moved.numel() else 0.0,
        mean_scores=float(scored.mean()) if scored.numel() else 0.0,
    )


def differences(
    first: Detections | SegmentationMap, second: Detections | SegmentationMap, overlap: float = 0.9
) -> Differences:
    """Compare two predictions of one image.

    Args:
        first: of the model.
        second: of the file.
        overlap: from which two detections of one class are counterparts.
    """
    if isinstance(first, SegmentationMap):
        assert isinstance(second, SegmentationMap)
        different = float((first.labels != second.labels).double().mean())
        return Differences(None, torch.zeros(0, 4), torch.zeros(0), different)
    assert isinstance(second, Detections)
    own, other = _counterparts(first, second, overlap)
    alone = len(first) - len(own) + len(second) - len(other.unique())
    pixels = 0.0
    if len(own) and first.masks is not None and second.masks is not None:
        pixels = float((first.masks[own] != second.masks[other]).double().mean())
    moved = (first.boxes[own] - second.boxes[other]).abs()
    return Differences(len(first), moved, (first.scores[own] - second.scores[other]).abs(), pixels, alone)


def _counterparts(first: Detections, second: Detections, limit: float) -> tuple[Tensor, Tensor]:
    """Indices of detections of one class that overlap."""
    if not len(first) or not len(second):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    # A box without area, as at the border of an image, overlaps nothing, itself neither.
    same = (first.boxes[:, None] - second.boxes[None]).abs().amax(2) <= _SAME
    overlap = torch.where(same, 1.0, boxes.iou(first.boxes, second.boxes))
    overlap = torch.where(first.labels[:, None] == second.labels[None], overlap, 0.0)
    # Of equal overlaps the one with the nearest score: detections of one object may follow each other.
    gap = (first.scores[:, None] - second.scores[None]).abs()
    best = torch.where(overlap >= limit, gap, torch.inf).argmin(1)
    matched = overlap.gather(1, best[:, None])[:, 0] >= limit
    return matched.nonzero()[:, 0], best[matched]
