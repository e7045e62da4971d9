"""Differences and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dcn.report.comparison import (
    Difference,
    SeedDifference,
    class_iou,
    compare_detections,
    compare_segmentations,
    mean_iou,
)
from dcn.report.diagnosis import evaluator
from dcn.report.resampled_ap import class_matches, resampled_precision

from .coco_data import CLASSES, detections, truth


def test_a_model_equals_itself() -> None:
    data = truth()
    rows = detections(data, 0.1)
    same = compare_detections(data, rows, rows, resamples=50)
    assert same.images == 30
    for difference in same.metrics.values():
        assert (difference.value, difference.low, difference.high, difference.width) == (0, 0, 0, 0)
        assert not difference.shown
        assert "(+0.0000 to +0.0000, width 0.0000)" in str(difference)
    assert all(a == b for _, a, b in same.changed)


def test_a_damaged_model_is_seen() -> None:
    data = truth(images=60)
    actual = compare_detections(data, detections(data, 0.05), detections(data, 0.2), resamples=200)
    ap = actual.metrics["AP"]
    assert ap.value < -0.1
    assert ap.shown
    assert ap.low < ap.value < ap.high < 0
    assert set(actual.per_class) == set(CLASSES)
    gaps = [abs(b - a) for _, a, b in actual.changed]
    assert gaps == sorted(gaps, reverse=True)


def matrices(rng: np.random.Generator, right: float, images: int = 40) -> np.ndarray:
    """Confusion matrices of images in which ``right`` of 400 pixels are classified well, more or less."""
    share = np.clip(rng.normal(right, 0.1, images), 0.05, 0.95)
    counts = np.zeros((images, 3, 3), dtype=np.int64)
    for image, good in enumerate(share):
        for label in range(3):
            counts[image, label] = rng.multinomial(400, [good if i == label else (1 - good) / 2 for i in range(3)])
    return counts


def test_segmentations_are_compared_by_image() -> None:
    rng = np.random.default_rng(0)
    first, second = matrices(rng, 0.6), matrices(rng, 0.7)
    names = [f"{i}" for i in range(40)]
    actual = compare_segmentations(names, CLASSES, first, second)
    miou = actual.metrics["mIoU"]
    assert miou.first == pytest.approx(float(mean_iou(first.sum(0))))
    assert miou.shown
    assert miou.value > 0
    same = compare_segmentations(names, CLASSES, first, first).metrics["mIoU"]
    assert (same.low, same.high) == (0, 0)


def test_a_class_that_does_not_occur_counts_as_the_recipe_says() -> None:
    rng = np.random.default_rng(1)
    first, second = (np.pad(matrices(rng, right), ((0, 0), (0, 1), (0, 1))) for right in (0.6, 0.7))
    names, classes = [f"{i}" for i in range(40)], (*CLASSES, "nowhere")
    skipped = compare_segmentations(names, classes, first, second).metrics["mIoU"]
    zero = compare_segmentations(names, classes, first, second, absent="zero").metrics["mIoU"]
    assert (zero.first, zero.second) == pytest.approx((skipped.first * 3 / 4, skipped.second * 3 / 4))
    assert (zero.low, zero.high) == pytest.approx((skipped.low * 3 / 4, skipped.high * 3 / 4))


def test_a_class_that_does_not_occur_does_not_count() -> None:
    counts = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    assert class_iou(counts)[:2].tolist() == pytest.approx([8 / 11, 9 / 12])
    assert math.isnan(class_iou(counts)[2])
    assert float(mean_iou(counts)) == pytest.approx((8 / 11 + 9 / 12) / 2)


def test_wrong_shapes_are_refused() -> None:
    counts = np.zeros((2, 3, 3), dtype=np.int64)
    with pytest.raises(ValueError, match=r"second: expected counts of shape \[2, 3, 3\], got \[2, 2, 2\]"):
        compare_segmentations(["a", "b"], CLASSES, counts, counts[:, :2, :2])


def test_seeds_are_paired() -> None:
    """The interval of Student's t, computed by hand: gaps 0.1, 0.2, 0.3; 4.303 * 0.1 / sqrt(3)."""
    actual = SeedDifference((0.5, 0.5, 0.5), (0.6, 0.7, 0.8))
    assert actual.mean == pytest.approx(0.2)
    assert actual.interval == pytest.approx((0.2 - 0.24843, 0.2 + 0.24843), abs=1e-4)
    assert actual.spread == pytest.approx((0.0, 0.1))
    assert SeedDifference((0.5,), (0.6,)).interval is None


def test_seeds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="expected as many runs of both recipes, got 2 and 1"):
        SeedDifference((0.5, 0.6), (0.6,))


@pytest.mark.parametrize(
    ("low", "high", "shown"), [(0.01, 0.2, True), (-0.2, -0.01, True), (-0.01, 0.2, False), (0.0, 0.2, False)]
)
def test_a_difference_is_shown_if_its_interval_excludes_zero(low: float, high: float, shown: bool) -> None:
    assert Difference(0.4, 0.5, low, high).shown == shown


@pytest.mark.parametrize("noise", [0.05, 0.2], ids=["good", "poor"])
def test_every_image_once_gives_the_metrics_of_the_library(noise: float) -> None:
    data = truth(images=20)
    data["annotations"][3]["iscrowd"] = 1
    evaluation = evaluator(data, detections(data, noise))
    precision = resampled_precision(class_matches(evaluation), np.ones((1, 20), dtype=np.int64))
    expected = evaluation.get_results()
    for name, value in precision.items():
        assert value[0] == pytest.approx(expected[name], abs=1e-12)


def test_an_image_that_is_drawn_twice_counts_twice() -> None:
    """The same as a data set that holds it twice."""
    data = truth(images=4)
    rows = detections(data, 0.1)
    weights = np.array([[2, 1, 0, 1]])
    numbers = [1, 1, 2, 4]
    annotations, results = [], []
    for new, old in enumerate(numbers, start=1):
        annotations += [{**row, "image_id": new} for row in data["annotations"] if row["image_id"] == old]
        results += [{**row, "image_id": new} for row in rows if row["image_id"] == old]
    doubled = {**data, "annotations": [{**row, "id": i} for i, row in enumerate(annotations, start=1)]}
    expected = evaluator(doubled, results).get_results()
    precision = resampled_precision(class_matches(evaluator(data, rows)), weights)
    assert precision["AP50"][0] == pytest.approx(
        expected["AP50"], abs=0.02
    )  # ties of equal scores are ordered otherwise
    assert precision["AP"][0] == pytest.approx(expected["AP"], abs=0.02)
