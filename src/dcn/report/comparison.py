"""Is one model better than another? Differences with intervals, over images and over seeds.

Two sources of chance are kept apart. The *images* of a test set are a sample: the interval over images comes from
resampling them (bootstrap). The *seed* of a training is another: several seeds of each recipe are paired, and the
interval over seeds is Student's, of the mean of their differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dcn.checks import whole
from dcn.metrics.segmentation import Absent
from dcn.report.diagnosis import IouType, Row, evaluator
from dcn.report.resampled_ap import METRICS, class_matches, resampled_precision

CONFIDENCE = 0.95
RESAMPLES = 1000

# 97.5 % points of Student's t by degrees of freedom; beyond 30 the normal one is 2 % smaller at most.
_T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Difference:
    """One metric of two models.

    Attributes:
        first: of the first model.
        second: of the second model.
        low: lower end of the 95 % interval of ``second - first``.
        high: upper end.
    """

    first: float
    second: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """``second - first``."""
        return self.second - self.first

    @property
    def width(self) -> float:
        """Of the interval."""
        return self.high - self.low

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        interval = f"({self.low:+.4f} to {self.high:+.4f}, width {self.width:.4f})"
        return f"{self.first:.4f} -> {self.second:.4f}: {self.value:+.4f} {interval}"


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        metrics: by name, with the interval over images.
        per_class: ``(first, second)`` by class.
        images: number of images that are resampled.
        changed: ``(image, first, second)`` by the size of the change, largest first: AP50 of the image for detectors,
            mean IoU of the image for segmentation models.
    """

    metrics: dict[str, Difference]
    per_class: dict[str, tuple[float, float]]
    images: int
    changed: tuple[tuple[int | str, float, float], ...]

    def renamed(self, names: Mapping[Any, str]) -> Comparison:
        """The same with names instead of the images' numbers."""
        return replace(self, changed=tuple((names[image], a, b) for image, a, b in self.changed))


def compare_detections(
    truth: Mapping[str, Any],
    first: Sequence[Row],
    second: Sequence[Row],
    *,
    iou_type: IouType = "bbox",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two sets of detections on one data set.

    Args:
        truth: the data set in COCO's form.
        first: results in COCO's form.
        second: the other results.
        iou_type: what overlaps.
        resamples: of the bootstrap over images.
        seed: of the resampling.

    Raises:
        ValueError: the data cannot be read, or hotcoco is not installed.
    """
    evaluations = [evaluator(truth, rows, iou_type) for rows in (first, second)]
    import hotcoco

    result = hotcoco.compare(evaluations[0], evaluations[1])
    images = len(truth["images"])
    weights = resampled_images(images, resamples, seed)
    values = [resampled_precision(class_matches(evaluation), weights) for evaluation in evaluations]
    metrics = {
        name: _difference(result["metrics_a"][name], result["metrics_b"][name], values[1][name] - values[0][name])
        for name in METRICS
        if result["metrics_a"][name] >= 0  # -1: no object behind it
    }
    per_class = {row["cat_name"]: (row["ap_a"], row["ap_b"]) for row in result["per_category"]}
    scores = [
        {image: float(row["ap"]) for image, row in evaluation.image_diagnostics()["img_summary"].items()}
        for evaluation in evaluations
    ]
    return Comparison(metrics, per_class, images, _changed(*scores))


def resampled_images(images: int, resamples: int = RESAMPLES, seed: int = 0) -> npt.NDArray[np.int64]:
    """``[resamples, images]``: how often each image is sampled, with replacement."""
    whole("resamples", resamples, 1)
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), resamples)


def _difference(first: float, second: float, gaps: npt.NDArray[np.float64]) -> Difference:
    low, high = np.quantile(gaps, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(first), float(second), float(low), float(high))


def compare_segmentations(
    names: Sequence[str],
    classes: Sequence[str],
    first: npt.NDArray[np.integer[Any]],
    second: npt.NDArray[np.integer[Any]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    absent: Absent = "skip",
) -> Comparison:
    """Compare two segmentation models by their confusion matrices of every image.

    Args:
        names: of the images.
        classes: names of the classes.
        first: ``[N, C, C]`` pixel counts of the first model, rows are annotated classes.
        second: the same of the second model.
        resamples: of the bootstrap over images.
        seed: of the resampling.
        absent: how a class counts in the mean IoU of all images that is neither annotated nor predicted: not, or as 0.

    Raises:
        ValueError: the shapes do not fit.
    """
    shape = (len(names), len(classes), len(classes))
    for name, counts in (("first", first), ("second", second)):
        if counts.shape != shape:
            raise ValueError(f"{name}: expected counts of shape {list(shape)}, got {list(counts.shape)}")
    # The matrices of a resample are a weighted sum.
    sampled = resampled_images(len(names), resamples, seed).astype(np.float64)
    gaps = mean_iou(np.tensordot(sampled, second, 1), absent) - mean_iou(np.tensordot(sampled, first, 1), absent)
    totals = first.sum(0), second.sum(0)
    miou = _difference(float(mean_iou(totals[0], absent)), float(mean_iou(totals[1], absent)), gaps)
    ious = [class_iou(total) for total in totals]
    per_class = {name: (float(a), float(b)) for name, a, b in zip(classes, *ious, strict=True) if not math.isnan(a)}
    scores = [dict(zip(names, mean_iou(counts).tolist(), strict=True)) for counts in (first, second)]
    return Comparison({"mIoU": miou}, per_class, len(names), _changed(*scores))


def class_iou(confusion: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """IoU of each class from matrices ``[..., C, C]``; NaN for a class that is neither annotated nor predicted."""
    matrix = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - hits
    return np.divide(hits, union, out=np.full_like(hits, math.nan), where=union > 0)


def mean_iou(confusion: npt.NDArray[Any], absent: Absent = "skip") -> npt.NDArray[np.float64]:
    """Mean IoU from matrices ``[..., C, C]``.

    Args:
        confusion: pixel counts, rows are annotated classes.
        absent: how a class counts that is neither annotated nor predicted: not, or as 0.
    """
    ious = class_iou(confusion)
    counted = ~np.isnan(ious)
    number = np.maximum(counted.sum(-1), 1) if absent == "skip" else ious.shape[-1]
    return np.where(counted, ious, 0.0).sum(-1) / number


@dataclass(frozen=True)
class SeedDifference:
    """One metric over several seeds of two recipes.

    Attributes:
        first: values of the first recipe by seed.
        second: values of the second recipe by seed.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.first) != len(self.second) or not self.first:
            raise ValueError(
                f"seeds: expected as many runs of both recipes, got {len(self.first)} and {len(self.second)}"
            )

    @property
    def gaps(self) -> npt.NDArray[np.float64]:
        """``second - first`` of each seed."""
        return np.subtract(self.second, self.first)

    @property
    def mean(self) -> float:
        """Mean difference over the seeds."""
        return float(self.gaps.mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean difference over seeds (Student); ``None`` for one seed."""
        count = len(self.gaps)
        if count < 2:
            return None
        quantile = _T975[count - 2] if count - 2 < len(_T975) else 1.96
        half = quantile * float(self.gaps.std(ddof=1)) / math.sqrt(count)
        return self.mean - half, self.mean + half

    @property
    def spread(self) -> tuple[float, float]:
        """Standard deviation between the seeds of each recipe; NaN for one seed."""
        first, second = (
            float(np.std(values, ddof=1)) if len(values) > 1 else math.nan for values in (self.first, self.second)
        )
        return first, second


def _changed(first: Mapping[Any, float], second: Mapping[Any, float]) -> tuple[tuple[int | str, float, float], ...]:
    """Images of both, by the size of the change."""
    rows = [(image, first[image], second[image]) for image in first if image in second]
    return tuple(sorted(rows, key=lambda row: -abs(row[2] - row[1])))
