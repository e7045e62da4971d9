"""How often the 95 % interval over images holds the true difference: by simulation, data sets of one population."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dcn.report.comparison import compare_detections, compare_segmentations, mean_iou
from tests.report.coco_data import CLASSES, detections, truth
from tests.report.test_comparison import matrices

POPULATION = 2000
IMAGES = 100
ROUNDS = 300


def subset(data: dict[str, Any], chosen: set[int]) -> dict[str, Any]:
    images = [row for row in data["images"] if row["id"] in chosen]
    return {**data, "images": images, "annotations": [row for row in data["annotations"] if row["image_id"] in chosen]}


@pytest.mark.parametrize("metric", ["AP", "AP50"])
def test_detections(metric: str) -> None:
    data = truth(images=POPULATION)
    first, second = detections(data, 0.06, seed=1), detections(data, 0.09, seed=2)
    whole = compare_detections(data, first, second, resamples=2).metrics[metric].value
    rng = np.random.default_rng(0)
    covered = 0
    for number in range(ROUNDS):
        chosen = set((rng.choice(POPULATION, IMAGES, replace=False) + 1).tolist())
        parts = [[row for row in rows if row["image_id"] in chosen] for rows in (first, second)]
        actual = compare_detections(subset(data, chosen), *parts, resamples=300, seed=number).metrics[metric]
        covered += actual.low <= whole <= actual.high
    print(f"{metric}: {covered / ROUNDS:.3f} of {ROUNDS} intervals hold the true difference {whole:+.4f}")
    assert 0.92 <= covered / ROUNDS <= 0.98


def test_segmentations() -> None:
    rng = np.random.default_rng(0)
    first, second = matrices(rng, 0.6, POPULATION), matrices(rng, 0.63, POPULATION)
    whole = float(mean_iou(second.sum(0)) - mean_iou(first.sum(0)))
    covered = 0
    for number in range(ROUNDS):
        chosen = rng.choice(POPULATION, IMAGES, replace=False)
        names = [str(image) for image in chosen]
        actual = compare_segmentations(names, CLASSES, first[chosen], second[chosen], seed=number).metrics["mIoU"]
        covered += actual.low <= whole <= actual.high
    print(f"mIoU: {covered / ROUNDS:.3f} of {ROUNDS} intervals hold the true difference {whole:+.4f}")
    assert 0.92 <= covered / ROUNDS <= 0.98
