from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dcn.metrics import MeanIoU
from dcn.metrics.segmentation import Absent

C = 7


def _maps(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and targets `[3, 19, 23]`: class 2 never occurs, class 4 is never predicted, class 5 never true."""
    rng = np.random.default_rng(seed)
    target = rng.choice([0, 1, 3, 4, 6, 255], size=(3, 19, 23))
    prediction = np.where(rng.random(target.shape) < 0.6, target, rng.choice([0, 1, 3, 5, 6], size=target.shape))
    prediction[(prediction == 4) | (prediction == 255)] = 3
    return torch.from_numpy(prediction), torch.from_numpy(target)


def _counted(prediction: torch.Tensor, target: torch.Tensor, absent: Absent) -> list[float]:
    p, t = prediction.numpy(), target.numpy()
    p, t = p[t != 255], t[t != 255]
    result = []
    for c in range(C):
        right = int(np.sum((p == c) & (t == c)))
        union = int(np.sum((p == c) | (t == c)))
        result.append(right / max(1, union) if absent == "zero" else (right / union if union else math.nan))
    return result


@pytest.mark.parametrize("absent", ["zero", "skip"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_a_plain_count(seed: int, absent: Absent) -> None:
    prediction, target = _maps(seed)
    metric = MeanIoU(C, absent=absent)
    metric.update(prediction[:1], target[:1])
    metric.update([prediction[1], prediction[2].int()], [target[1], target[2].to(torch.uint8)])
    figures = metric.compute()
    expected = _counted(prediction, target, absent)
    assert [figures[f"IoU/{c}"] for c in range(C)] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert figures["mIoU"] == pytest.approx(float(np.nanmean(expected)), abs=1e-12)
    kept = target != 255
    assert figures["accuracy"] == pytest.approx(float((prediction == target)[kept].double().mean()))
    found = [float((prediction == c)[target == c].double().mean()) for c in (0, 1, 3, 4, 6)]
    assert figures["mean_accuracy"] == pytest.approx(float(np.mean(found)))


def test_the_two_rules_differ_by_the_absent_class() -> None:
    prediction, target = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]])
    means = []
    for absent in ("zero", "skip"):
        metric = MeanIoU(3, absent=absent)
        metric.update([prediction], [target])
        means.append(metric.compute()["mIoU"])
    assert means == pytest.approx([1 / 3, 1 / 2])


def test_confusion_has_annotations_in_rows() -> None:
    metric = MeanIoU(2, classes=["road", "car"])
    metric.update([torch.tensor([[0, 0, 1, 0]])], [torch.tensor([[0, 1, 1, 255]])])
    assert metric.confusion.tolist() == [[1, 0], [1, 1]]
    assert metric.compute()["IoU/road"] == 0.5


def test_pixels_predicted_as_ignored_are_missed() -> None:
    metric = MeanIoU(2)
    metric.update([torch.tensor([[0, 255, 1, 255]])], [torch.tensor([[0, 0, 1, 255]])])
    figures = metric.compute()
    assert [figures["IoU/0"], figures["IoU/1"], figures["accuracy"]] == pytest.approx([0.5, 1.0, 2 / 3])


def test_merge_adds_and_reset_forgets() -> None:
    prediction, target = _maps(5)
    whole, part, rest = MeanIoU(C), MeanIoU(C), MeanIoU(C)
    whole.update(prediction, target)
    part.update(prediction[:1], target[:1])
    rest.update(prediction[1:], target[1:])
    part.merge(rest)
    assert torch.equal(part.confusion, whole.confusion)
    part.reset()
    assert int(part.confusion.sum()) == 0
    assert math.isnan(part.compute()["accuracy"])
    with pytest.raises(ValueError, match="other"):
        part.merge(MeanIoU(C, absent="skip"))


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        pytest.param([[0, 1]], [[0], [1]], "size of the target", id="shape"),
        pytest.param([[0, 7]], [[0, 1]], "predictions: expected labels", id="prediction"),
        pytest.param([[0, 1]], [[0, -1]], "targets: expected labels", id="target"),
    ],
)
def test_wrong_maps_are_refused(prediction: list[list[int]], target: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeanIoU(3).update([torch.tensor(prediction)], [torch.tensor(target)])


@pytest.mark.parametrize(
    "arguments",
    [(0,), (3, 2), (3, 255, "nan"), (3, 255, "zero", ["a"])],
    ids=["no-class", "ignore", "absent", "names"],
)
def test_wrong_options_are_refused(arguments: tuple[int, int, Absent, list[str]]) -> None:
    with pytest.raises(ValueError, match=r"num_classes|ignore_index|absent"):
        MeanIoU(*arguments)
