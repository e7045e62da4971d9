from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch

from dcn.metrics import CocoAP
from dcn.metrics.results import COCO_NAMES
from dcn.structures import Detections, Target

from .made_up import coco_form, image

CLASSES = ["ant", "bee", "cow", "dog"]


def _oracle(truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        # Without the box, masks are sized by their own area, as the detection libraries do it.
        drop = "bbox" if iou_type == "segm" else "segmentation"
        evaluation = COCOeval(
            coco, coco.loadRes([{k: v for k, v in r.items() if k != drop} for r in results]), iou_type
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    per_class = [p[p > -1].mean() if (p > -1).any() else -1.0 for p in np.moveaxis(precision, 2, 0)]
    result = dict(zip(COCO_NAMES, evaluation.stats.tolist(), strict=True))
    return {**result, **{f"AP/{c['name']}": float(v) for c, v in zip(truth["categories"], per_class, strict=True)}}


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_equals_pycocotools(masks: bool) -> None:
    pairs = [image(seed, 3, masks=masks) for seed in range(1, 25)]  # the fourth class never occurs
    metric = CocoAP(CLASSES, masks=masks)
    for start in range(0, len(pairs), 5):
        batch = pairs[start : start + 5]
        metric.update([detections for detections, _ in batch], [target for _, target in batch])
    expected = _oracle(*coco_form(pairs, CLASSES), "bbox")
    if masks:
        segm = _oracle(*coco_form(pairs, CLASSES), "segm")
        expected.update({f"mask/{name}": value for name, value in segm.items()})
    assert metric.compute() == pytest.approx(expected, abs=1e-12)
    assert expected["AP/dog"] == -1.0


def test_the_boxes_handed_in_stay_as_they_are() -> None:
    detections, target = image(3, 3)
    before = detections.boxes.clone(), target.boxes.clone()
    CocoAP(CLASSES).update([detections], [target])
    assert torch.equal(detections.boxes, before[0])
    assert torch.equal(target.boxes, before[1])


def test_order_of_images_and_processes_does_not_matter() -> None:
    pairs = [image(seed, 4) for seed in range(8)]
    whole, first, second = CocoAP(CLASSES), CocoAP(CLASSES), CocoAP(CLASSES)
    whole.update([detections for detections, _ in pairs], [target for _, target in pairs])
    for number, (detections, target) in enumerate(reversed(pairs)):
        (first if number % 2 else second).update([detections], [target])
    first.merge(second)
    assert first.compute() == whole.compute()
    with pytest.raises(ValueError, match="same classes"):
        first.merge(CocoAP(["ant"]))


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_empty_cases(masks: bool) -> None:
    metric = CocoAP(["ant"], masks=masks)
    assert set(metric.compute().values()) == {-1.0}
    none = torch.zeros(0, 8, 8, dtype=torch.bool) if masks else None
    one = torch.ones(1, 8, 8, dtype=torch.bool) if masks else None
    target = Target(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([0]), (8, 8), one)
    metric.update([Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), none)], [target])
    result = metric.compute()
    assert (result["AP"], result["APs"], result["APl"], result["AP/ant"]) == (0.0, 0.0, -1.0, 0.0)
    metric.reset()
    assert set(metric.compute().values()) == {-1.0}


@pytest.mark.parametrize(
    ("height", "message"), [pytest.param(None, "got none", id="missing"), pytest.param(7, r"got \(7, 8\)", id="size")]
)
def test_masks_that_do_not_fit_are_refused(height: int | None, message: str) -> None:
    masks = None if height is None else torch.ones(1, height, 8, dtype=torch.bool)
    detections = Detections(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([0.5]), torch.tensor([0]), masks)
    target = Target(detections.boxes, detections.labels, (8, 8), torch.ones(1, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=message):
        CocoAP(["ant"], masks=True).update([detections], [target])
