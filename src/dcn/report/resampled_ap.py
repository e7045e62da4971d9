"""Average precision of resampled images: the input of the interval over images.

The library's own bootstrap gives intervals that are too narrow (its standard error is about two thirds of the true
one in `tests/slow/test_comparison_coverage.py`), so the resampling is done here, on the library's matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

METRICS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Metrics that are resampled, and their IoU thresholds among the ten of COCO."""

_RECALLS = np.linspace(0.0, 1.0, 101)
_CHUNK = 4_000_000
"""Numbers that one step holds: resamples x detections of a class."""


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class, best first.

    Attributes:
        image: ``[D]`` index of the image of each detection.
        correct: ``[T, D]`` whether it matches an object, by IoU threshold.
        counted: ``[T, D]`` whether it counts at all; what matches a crowd region does not.
        objects: ``[N]`` number of objects of the class in each image.
    """

    image: npt.NDArray[np.int64]
    correct: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    objects: npt.NDArray[np.int64]


def class_matches(evaluation: Any) -> list[ClassMatches]:
    """The matches of an evaluation that has run, for objects of all sizes.

    Args:
        evaluation: a ``hotcoco.COCOeval``.
    """
    images = {image: index for index, image in enumerate(evaluation.params.imgIds)}
    whole = [float(value) for value in evaluation.params.areaRng[0]]
    rows: dict[int, list[Any]] = {category: [] for category in evaluation.params.catIds}
    for row in evaluation.evalImgs:
        if row is not None and [float(value) for value in row["aRng"]] == whole:
            rows[row["category_id"]].append(row)
    return [_matches(matched, images, len(evaluation.params.iouThrs)) for matched in rows.values()]


def _matches(rows: Sequence[Any], images: dict[int, int], thresholds: int) -> ClassMatches:
    objects = np.zeros(len(images), dtype=np.int64)
    scores, image = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    correct, counted = [np.empty((thresholds, 0), dtype=bool)], [np.empty((thresholds, 0), dtype=bool)]
    for row in rows:
        index = images[row["image_id"]]
        objects[index] = int(np.sum(np.asarray(row["gtIgnore"]) == 0))
        count = len(row["dtScores"])
        if count:
            scores.append(np.asarray(row["dtScores"], dtype=np.float64))
            image.append(np.full(count, index))
            correct.append(np.asarray(row["dtMatches"]).reshape(thresholds, count) != 0)
            counted.append(~np.asarray(row["dtIgnore"]).reshape(thresholds, count).astype(bool))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return ClassMatches(
        np.concatenate(image)[order],
        np.concatenate(correct, 1)[:, order],
        np.concatenate(counted, 1)[:, order],
        objects,
    )


def resampled_precision(matches: Sequence[ClassMatches], weights: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """AP, AP50 and AP75 of every resample, by the rules of COCO.

    Args:
        matches: of every class.
        weights: ``[R, N]`` how often each image counts in each resample.

    Returns:
        ``[R]`` each; a class without objects in a resample is left out of its mean.
    """
    tables = np.stack([_class_precision(one, weights) for one in matches], 2)  # [R, T, classes]
    return {name: _mean(tables[:, thresholds].reshape(len(weights), -1)) for name, thresholds in METRICS.items()}


def _mean(values: Floats) -> Floats:
    known = ~np.isnan(values)
    return np.where(known, values, 0.0).sum(1) / np.maximum(known.sum(1), 1)


def _class_precision(one: ClassMatches, weights: npt.NDArray[np.int64]) -> Floats:
    """``[R, T]``; NaN without objects."""
    positives = weights @ one.objects
    result = np.zeros((len(weights), len(one.correct)))
    step = max(1, _CHUNK // max(1, len(one.image)))
    for start in range(0, len(weights), step):
        part = slice(start, start + step)
        own = weights[part][:, one.image]  # [r, D]
        for threshold, (correct, counted) in enumerate(zip(one.correct, one.counted, strict=True)):
            right = np.cumsum(own * (correct & counted), 1)
            wrong = np.cumsum(own * (~correct & counted), 1)
            result[part, threshold] = _area(right, wrong, positives[part])
    result[positives == 0] = np.nan
    return result


def _area(right: npt.NDArray[np.int64], wrong: npt.NDArray[np.int64], positives: npt.NDArray[np.int64]) -> Floats:
    """Mean of the interpolated precision at 101 recalls, for each row."""
    if right.shape[1] == 0:
        return np.zeros(len(right))
    precision = right / np.maximum(right + wrong, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    padded = np.concatenate((envelope, np.zeros((len(envelope), 1))), 1)
    recall = right / np.maximum(positives, 1)[:, None]
    positions = np.stack([np.searchsorted(row, _RECALLS, "left") for row in recall])
    return np.take_along_axis(padded, positions, 1).mean(1)
