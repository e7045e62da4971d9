"""Intersection over union of semantic segmentations, counted over all pixels of all images."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dcn.class_names import IGNORE, check_class_names
from dcn.metrics.results import SegmentationResult

Absent = Literal["skip", "zero"]


class MeanIoU:
    """IoU of each class, their mean, and pixel accuracy, from one confusion matrix.

    Args:
        num_classes: C; labels are ``0 .. C-1``.
        ignore_index: annotation label of pixels that are left out, whatever is predicted there. Predictions may hold
            it too (a predictor that abstains): such pixels count as missed objects, of no predicted class.
        absent: what a class is worth that occurs neither in the annotations nor in the predictions. ``"skip"`` leaves
            it out of the mean (NaN; the rule of the Cityscapes scripts); ``"zero"`` counts it as 0 (the rule of the
            original code of the paper: tp / max(1, annotated + predicted - tp)).
        classes: names for the keys of `compute`; ``None`` uses the numbers.

    `compute` returns a `SegmentationResult`: ``mIoU`` (mean over classes), ``accuracy`` (share of the counted pixels
    that are right), ``mean_accuracy`` (mean over the annotated classes of that share) and ``IoU/<class>``; all in 0..1,
    NaN where no pixel stands behind a number.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = IGNORE,
        absent: Absent = "zero",
        classes: Sequence[str] | None = None,
    ) -> None:
        names = tuple(str(i) for i in range(num_classes)) if classes is None else check_class_names(classes)
        if num_classes < 1 or len(names) != num_classes:
            raise ValueError(
                f"num_classes: expected at least 1 and a name for each, got {num_classes} and {len(names)}"
            )
        if absent not in ("skip", "zero"):
            raise ValueError(f"absent: expected 'skip' or 'zero', got {absent!r}")
        if 0 <= ignore_index < num_classes:
            raise ValueError(
                f"ignore_index: expected a number that is no class (0..{num_classes - 1}), got {ignore_index}"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.absent = absent
        self.classes = names
        self._counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)

    @property
    def confusion(self) -> Tensor:
        """``[C, C]`` int64: pixels annotated as the row and predicted as the column."""
        return self._counts[:, : self.num_classes].clone()

    def reset(self) -> None:
        """Forget all images."""
        self._counts.zero_()

    def update(self, predictions: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
        """Count the pixels of some images: masks of equal size ``[H, W]`` (or a batch ``[N, H, W]``), any int."""
        for prediction, target in zip(predictions, targets, strict=True):
            if prediction.shape != target.shape:
                raise ValueError(
                    f"predictions: expected the size of the target {list(target.shape)}, got {list(prediction.shape)}; "
                    "resize the prediction (Cityscapes) or the target (VOC) by nearest neighbour first"
                )
            self._count(prediction, target)

    def merge(self, other: MeanIoU) -> None:
        """Add the counts of another process's metric, which must have the same classes and rules."""
        if (self.classes, self.ignore_index, self.absent) != (other.classes, other.ignore_index, other.absent):
            raise ValueError(
                "other: expected a MeanIoU with the same classes, ignore_index and absent, got "
                f"{len(other.classes)} classes, {other.ignore_index} and {other.absent!r}"
            )
        self._counts += other._counts

    def compute(self) -> SegmentationResult:
        """The numbers over all images so far (class docstring)."""
        counts = self._counts.double()
        right = counts.diagonal()
        annotated, predicted = counts.sum(1), counts[:, : self.num_classes].sum(0)
        union = annotated + predicted - right
        iou = right / union if self.absent == "skip" else right / union.clamp(min=1)
        return SegmentationResult(
            mean_iou=float(iou.nanmean()),
            accuracy=float(right.sum() / annotated.sum()),
            mean_accuracy=float((right / annotated).nanmean()),
            per_class=dict(zip(self.classes, iou.tolist(), strict=True)),
        )

    def _count(self, prediction: Tensor, target: Tensor) -> None:
        c = self.num_classes
        kept = target != self.ignore_index
        truth, predicted = target[kept].long(), prediction[kept].long()
        predicted = torch.where(predicted == self.ignore_index, c, predicted)
        for name, labels, end in (("targets", truth, c), ("predictions", predicted, c + 1)):
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < end:
                raise ValueError(
                    f"{name}: expected labels 0..{c - 1} or {self.ignore_index}, "
                    f"got {int(labels.min())}..{int(labels.max())}; map the ids of the dataset to class numbers first"
                )
        counts = torch.bincount(truth * (c + 1) + predicted, minlength=c * (c + 1))
        self._counts += counts.reshape(c, c + 1).cpu()


def write_confusion(path: Path, metric: MeanIoU) -> None:
    """Write the counts as CSV: a row for each annotated class, a column for each predicted one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["annotated \\ predicted", *metric.classes])
        for name, row in zip(metric.classes, metric.confusion.tolist(), strict=True):
            writer.writerow([name, *row])
