"""Average precision by the rules of Pascal VOC (Everingham et al., IJCV 2010; development kits of 2007 and 2012).

The rules, as the papers of this package were scored with them:

* A detection is compared with every object of its class in its image and assigned to the one it overlaps most.
* It is a match if that overlap is strictly greater than the threshold. The first (best-scored) detection of an
  object is right, every later one is wrong, and one assigned to a *difficult* object is left out altogether.
* Recall is over the objects that are not difficult. Precision is turned into AP by the 11-point mean of 2007 or by
  the area under the monotone envelope (2010 and later).

The kits work on 1-based inclusive coordinates and add 1 to each width. That is exactly ``x2 - x1`` of the continuous
edges used here, so the IoU is the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dcn.class_names import check_class_names
from dcn.metrics.detection import check_batch, image_order
from dcn.metrics.results import VocResult
from dcn.structures import Detections, Target

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Method = Literal["area", "11point"]

WRONG, RIGHT, LEFT_OUT = 0, 1, 2


@dataclass(frozen=True)
class _Image:
    """One image after matching: scores and labels `[N]`, outcome `[T, N]` (one row a threshold), objects `[C]`."""

    image_id: int | str
    scores: Floats
    labels: Ints
    outcome: Ints
    objects: Ints


def average_precision(recall: Floats, precision: Floats, method: Method = "area") -> float:
    """Turn a curve into one number.

    Args:
        recall: `[N]`, rising, in 0..1: after each detection, best first.
        precision: `[N]`, in 0..1, for the same detections.
        method: ``"11point"`` is the mean of the best precision at recall >= 0, 0.1, ..., 1 (VOC 2007);
            ``"area"`` the exact area under the curve made monotone from the right (VOC 2010 and later).
    """
    if method == "11point":
        # The kit's own steps: 0.3, 0.6 and 0.7 come out one rounding error high, which decides at recall 3/5 or 7/10.
        reached = [precision[recall >= step] for step in np.arange(0.0, 1.1, 0.1)]
        return float(sum(p.max() if p.size else 0.0 for p in reached) / 11)
    steps = np.concatenate(([0.0], recall, [1.0]))
    envelope = np.maximum.accumulate(np.concatenate(([0.0], precision, [0.0]))[::-1])[::-1]
    return float(np.sum(np.diff(steps) * envelope[1:]))


class VocAP:
    """AP of each class and their mean at one or several overlap thresholds.

    Args:
        classes: names of the labels ``0 .. C-1``.
        thresholds: a detection must overlap its object by *more* than this (IoU, 0..1).
        method: ``"area"`` or ``"11point"``, see `average_precision`.

    `compute` returns a `VocResult`: for thresholds 0.5 and 0.7, ``AP50``, ``AP70`` (means over classes) and
    ``AP50/<class>``, ``AP70/<class>``. A class without an object that counts has no recall: its AP is NaN and it is
    left out of the mean; the mean of no class is NaN. A class with objects but no detections has AP 0. Crowd regions
    are treated like difficult objects. Images are ranked together, in the order of their ``image_id`` where scores are
    equal.
    """

    def __init__(
        self, classes: Sequence[str], thresholds: Sequence[float] = (0.5, 0.7), method: Method = "area"
    ) -> None:
        self.classes = check_class_names(classes)
        self.thresholds = tuple(thresholds)
        self.method = method
        numbers = all(isinstance(t, (int, float)) and 0 <= t < 1 for t in self.thresholds)
        if not self.thresholds or not numbers or len(set(self.thresholds)) != len(self.thresholds):
            raise ValueError(f"thresholds: expected one or more different numbers in [0, 1), got {self.thresholds}")
        if method not in ("area", "11point"):
            raise ValueError(f"method: expected 'area' (VOC 2010 and later) or '11point' (VOC 2007), got {method!r}")
        self._images: list[_Image] = []

    def reset(self) -> None:
        """Forget all images."""
        self._images = []

    def update(self, detections: list[Detections], targets: list[Target]) -> None:
        """Match the detections of each image with its objects (both in pixels of the original image)."""
        check_batch(detections, targets, len(self.classes))
        pairs = zip(detections, targets, strict=True)
        self._images.extend(self._match_image(one, target) for one, target in pairs)

    def merge(self, other: VocAP) -> None:
        """Take in the images of another process's metric, which must have the same classes and rules."""
        mine = (self.classes, self.thresholds, self.method)
        if mine != (other.classes, other.thresholds, other.method):
            raise ValueError(
                "other: expected a VocAP with the same classes, thresholds and method, got "
                f"{len(other.classes)} classes, {other.thresholds} and {other.method!r}"
            )
        self._images.extend(other._images)

    def curves(self, threshold: float) -> dict[str, tuple[Floats, Floats]]:
        """Recall and precision (each `[N]`, best detection first) of every class that has objects, by class name."""
        if threshold not in self.thresholds:
            raise ValueError(f"threshold: expected one of {self.thresholds}, got {threshold}")
        return self._curves(self.thresholds.index(threshold))

    def compute(self) -> VocResult:
        """The numbers over all images so far (class docstring); values in 0..1 or NaN."""
        mean: dict[float, float] = {}
        per_class: dict[float, dict[str, float]] = {}
        for index, threshold in enumerate(self.thresholds):
            curves = self._curves(index)
            values = {c: average_precision(*curves[c], self.method) for c in self.classes if c in curves}
            mean[threshold] = float(np.mean(list(values.values()))) if values else float("nan")
            per_class[threshold] = {c: values.get(c, float("nan")) for c in self.classes}
        return VocResult(self.thresholds, mean, per_class)

    def _match_image(self, detections: Detections, target: Target) -> _Image:
        ignored = target.ignored.cpu().numpy()
        truth_labels = target.labels.cpu().numpy()
        scores = detections.scores.detach().double().cpu().numpy()
        labels = detections.labels.cpu().numpy()
        overlap = _iou(detections.boxes.detach().double().cpu().numpy(), target.boxes.double().cpu().numpy())
        overlap[labels[:, None] != truth_labels[None, :]] = -1.0
        outcome = np.stack([_match(overlap, scores, ignored, threshold) for threshold in self.thresholds])
        objects = np.bincount(truth_labels[~ignored], minlength=len(self.classes))
        return _Image(target.image_id, scores, labels, outcome, objects)

    def _curves(self, index: int) -> dict[str, tuple[Floats, Floats]]:
        images = sorted(self._images, key=lambda image: image_order(image.image_id))
        if not images:
            return {}
        scores = np.concatenate([image.scores for image in images])
        labels = np.concatenate([image.labels for image in images])
        outcome = np.concatenate([image.outcome[index] for image in images])
        objects = np.sum([image.objects for image in images], axis=0)
        curves = {}
        for label in np.flatnonzero(objects):
            chosen = (labels == label) & (outcome != LEFT_OUT)
            order = np.argsort(-scores[chosen], kind="stable")
            right = np.cumsum(outcome[chosen][order] == RIGHT)
            curves[self.classes[label]] = (right / objects[label], right / np.arange(1, len(right) + 1))
        return curves


def _iou(a: Floats, b: Floats) -> Floats:
    """IoU `[N, M]` of boxes `[N, 4]` and `[M, 4]`; 0 where both are empty."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(2)
    union = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)[None, :] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def _match(overlap: Floats, scores: Floats, ignored: Flags, threshold: float) -> Ints:
    """Outcome `[N]` of every detection of one image; ``overlap [N, M]`` is -1 between different classes."""
    outcome = np.full(len(scores), WRONG)
    taken = np.zeros(overlap.shape[1], dtype=bool)
    if not overlap.shape[1]:
        return outcome
    for i in np.argsort(-scores, kind="stable"):
        best = int(overlap[i].argmax())
        if overlap[i, best] <= threshold:
            continue
        if ignored[best]:
            outcome[i] = LEFT_OUT
        elif not taken[best]:
            outcome[i] = RIGHT
            taken[best] = True
    return outcome
