from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping

import pytest
import torch

from dcn.metrics import CocoAP, CocoResult, MeanIoU, Result, SegmentationResult, VocAP, VocResult
from dcn.metrics.results import COCO_NAMES
from tests.metrics.made_up import image

CLASSES = ["ant", "bee", "cow"]
PAIRS = [image(seed, 2, masks=True) for seed in range(1, 7)]  # the third class never occurs


def _coco() -> CocoResult:
    metric = CocoAP(CLASSES, masks=True)
    metric.update([detections for detections, _ in PAIRS], [target for _, target in PAIRS])
    return metric.compute()


def _voc() -> VocResult:
    metric = VocAP(CLASSES, thresholds=(0.5, 0.75))
    metric.update([detections for detections, _ in PAIRS], [target for _, target in PAIRS])
    return metric.compute()


def _segmentation() -> SegmentationResult:
    metric = MeanIoU(3, absent="skip", classes=CLASSES)
    metric.update([torch.tensor([[0, 1, 1, 0]])], [torch.tensor([[0, 1, 0, 255]])])
    return metric.compute()


ALL = {"coco": _coco, "voc": _voc, "segmentation": _segmentation}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_a_result_is_a_frozen_mapping_of_numbers(make: object) -> None:
    assert callable(make)
    result: Result = make()
    assert isinstance(result, Mapping)
    assert all(isinstance(value, float) for value in result.values())
    assert {**result} == dict(result) or any(math.isnan(value) for value in result.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.per_class = {}  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        result["AP51"]


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_json_holds_it_without_nan(make: object) -> None:
    assert callable(make)
    result: Result = make()
    text = json.dumps(result.to_dict(), allow_nan=False)
    back = json.loads(text)
    assert list(back) == list(result)
    assert {name for name, value in back.items() if value is None} == {n for n, v in result.items() if math.isnan(v)}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_it_prints_as_a_table_with_classes_last(make: object) -> None:
    assert callable(make)
    result: Result = make()
    lines = str(result).splitlines()
    assert sorted(line.split("  ")[0].strip() for line in lines) == sorted(result)
    summary = ["/" in line for line in lines]
    assert summary == sorted(summary)
    assert len({line.rindex("  ") for line in lines if "-" not in line}) <= 2  # one column, NaN is shorter


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_what_was_not_measured_prints_as_a_dash(make: object) -> None:
    assert callable(make)
    result: Result = make()
    lines = dict(line.rsplit(maxsplit=1) for line in str(result).splitlines())
    absent = {name for name, value in result.items() if math.isnan(value) or value == -1}
    assert {name for name, text in lines.items() if text == "-"} == absent != set()
    assert all(float(lines[name]) == pytest.approx(result[name], abs=5e-5) for name in lines if name not in absent)


def test_attributes_of_coco() -> None:
    result = _coco()
    assert list(result)[:12] == list(COCO_NAMES)
    assert (result.ap, result.ap50, result.ar_large) == (result["AP"], result["AP50"], result["ARl"])
    assert result.per_class == {name: result[f"AP/{name}"] for name in CLASSES}
    assert result.per_class["cow"] == -1
    assert result.masks is not None
    assert result.masks.ap75 == result["mask/AP75"]
    assert result["mask/AP/ant"] == result.masks.per_class["ant"]


def test_attributes_of_voc() -> None:
    result = _voc()
    assert list(result)[:2] == ["AP50", "AP50/ant"]
    assert (result.ap50, result.mean[0.75]) == (result["AP50"], result["AP75"])
    assert result.per_class[0.75]["bee"] == result["AP75/bee"]
    assert math.isnan(result["AP50/cow"])
    assert math.isnan(VocAP(CLASSES, (0.7,)).compute().ap50)


def test_attributes_of_segmentation() -> None:
    result = _segmentation()
    assert list(result) == ["mIoU", "accuracy", "mean_accuracy", "IoU/ant", "IoU/bee", "IoU/cow"]
    assert result.per_class == pytest.approx({"ant": 0.5, "bee": 0.5, "cow": math.nan}, nan_ok=True)
    assert (result.mean_iou, result.accuracy) == pytest.approx((0.5, 2 / 3))


def test_equal_numbers_are_equal() -> None:
    first, second = _coco(), _coco()
    assert first == second == dict(first)
    assert first != dataclasses.replace(second, ap=0.0)
    assert first != 1


@pytest.mark.parametrize("make", [CocoAP, VocAP, lambda classes: MeanIoU(3, classes=classes)])
@pytest.mark.parametrize("classes", ["cat", [], ["a", "a", "b"], ["a", 1, "b"]], ids=str)
def test_bad_class_names_are_refused(make: object, classes: object) -> None:
    """A text is never taken for the classes 'c', 'a', 't'."""
    assert callable(make)
    with pytest.raises(ValueError, match="classes: expected"):
        make(classes)
