"""The diagnosis against pycocotools and against errors that were made on purpose."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest

from dcn.report.diagnosis import diagnose

from .coco_data import CLASSES, detections, truth

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def pycocotools_stats(data: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(StringIO()):
        gt = COCO()
        gt.dataset = data
        gt.createIndex()
        evaluation = COCOeval(gt, gt.loadRes([dict(row) for row in rows]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=True))


@pytest.mark.parametrize("noise", [0.02, 0.15], ids=["good", "poor"])
def test_the_metrics_are_those_of_pycocotools(noise: float) -> None:
    data = truth()
    rows = detections(data, noise)
    actual = diagnose(data, rows)
    expected = pycocotools_stats(data, rows)
    assert {name: actual.metrics[name] for name in NAMES} == pytest.approx(expected, abs=1e-12)
    assert np.mean(list(actual.per_class.values())) == pytest.approx(expected["AP"], abs=1e-12)


def one(image: int, category: int, box: list[float], score: float = 0.9) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        pytest.param("Loc", [one(1, 1, [60, 0, 100, 100])], id="localisation"),
        pytest.param("Cls", [one(1, 2, [0, 0, 100, 100])], id="classification"),
        pytest.param("Both", [one(1, 2, [55, 0, 100, 100])], id="both"),
        pytest.param("Dupe", [one(1, 1, [0, 0, 100, 100]), one(1, 1, [2, 0, 100, 100], 0.8)], id="duplicate"),
        pytest.param("Bkg", [one(1, 1, [160, 160, 80, 80])], id="background"),
        pytest.param("Miss", [], id="missed"),
    ],
)
def test_each_kind_of_error_is_counted_as_such(kind: str, rows: list[dict[str, Any]]) -> None:
    box = {"bbox": [0, 0, 100, 100], "area": 10000, "iscrowd": 0}
    data = truth(images=1, objects=0) | {"annotations": [{"id": 1, "image_id": 1, "category_id": 1, **box}]}
    counts = diagnose(data, rows).error_counts
    assert counts[kind] == 1
    assert sum(counts.values()) - counts["Miss"] == (kind != "Miss")


def test_confusion_counts_classes_and_background() -> None:
    data = truth(images=2, objects=2)
    rows = [one(row["image_id"], row["category_id"] % 3 + 1, row["bbox"]) for row in data["annotations"]]
    actual = diagnose(data, [*rows, one(1, 1, [250, 250, 5, 5])])
    assert actual.classes == CLASSES
    assert actual.confusion[:3, :3].trace() == 0
    assert actual.confusion[:3, :3].sum() == 4
    assert actual.confusion[3].tolist() == [1, 0, 0, 0]


def test_the_worst_images_come_first() -> None:
    data = truth(images=3, objects=2)
    rows = [
        one(row["image_id"], row["category_id"], row["bbox"]) for row in data["annotations"] if row["image_id"] != 2
    ]
    images = diagnose(data, rows).images
    assert [image.image_id for image in images] == [2, 1, 3]
    assert (images[0].missed, images[0].f1, images[1].correct) == (2, 0.0, 2)


def test_nothing_detected_is_a_diagnosis_too() -> None:
    actual = diagnose(truth(images=2), [])
    assert actual.metrics["AP"] == 0
    assert actual.error_counts["Miss"] == 6
    assert actual.calibration_error == 0
