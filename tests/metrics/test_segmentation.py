from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dcn.data.datasets.cityscapes import LABEL_IDS, label_id_table
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
    result = metric.compute()
    expected = _counted(prediction, target, absent)
    assert [result[f"IoU/{c}"] for c in range(C)] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert result["mIoU"] == pytest.approx(float(np.nanmean(expected)), abs=1e-12)
    kept = target != 255
    assert result["accuracy"] == pytest.approx(float((prediction == target)[kept].double().mean()))
    recalls = [float((prediction == c)[target == c].double().mean()) for c in (0, 1, 3, 4, 6)]
    assert result["mean_accuracy"] == pytest.approx(float(np.mean(recalls)))


def test_the_two_rules_differ_by_the_absent_class() -> None:
    prediction, target = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]])
    means = []
    for absent in ("zero", "skip"):
        metric = MeanIoU(3, absent=absent)
        metric.update([prediction], [target])
        means.append(metric.compute()["mIoU"])
    assert means == pytest.approx([1 / 3, 1 / 2])


def _cityscapes_rule(predicted: NDArray[np.int64], annotated: NDArray[np.int64], trained: list[int]) -> list[float]:
    """The scripts of Cityscapes: a confusion matrix over all 34 label ids, also those that are not evaluated.

    An evaluated label's true positives are on the diagonal, its false negatives are the rest of its row, whatever was
    predicted there, and its false positives the rest of its column in rows of evaluated labels. NaN without any.
    """
    confusion = np.zeros((34, 34), dtype=np.int64)
    np.add.at(confusion, (annotated.ravel(), predicted.ravel()), 1)
    scores = []
    for label in trained:
        right = confusion[label, label]
        missed = confusion[label].sum() - right
        wrong = confusion[[other for other in trained if other != label], label].sum()
        denominator = right + missed + wrong
        scores.append(right / denominator if denominator else math.nan)
    return scores


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_rule_of_the_cityscapes_scripts(seed: int) -> None:
    """On label ids, against train ids here; ids 16, 31 and 33 never occur, predictions hold unjudged ids too."""
    rng = np.random.default_rng(seed)
    ids = np.array([label for label in range(34) if label not in (16, 31, 33)])
    annotated = rng.choice(ids, size=(2, 40, 50))
    predicted = np.where(rng.random(annotated.shape) < 0.5, annotated, rng.choice(ids, size=annotated.shape))
    table = label_id_table()
    to_train = np.array([table[label] for label in range(34)])
    metric = MeanIoU(19, absent="skip")
    metric.update(torch.from_numpy(to_train[predicted]), torch.from_numpy(to_train[annotated]))
    expected = _cityscapes_rule(predicted, annotated, list(LABEL_IDS))
    result = metric.compute()
    assert [result[f"IoU/{c}"] for c in range(19)] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert np.isnan(expected).sum() == 2
    assert result["mIoU"] == pytest.approx(float(np.nanmean(expected)), abs=1e-12)


def test_confusion_has_annotations_in_rows() -> None:
    metric = MeanIoU(2, classes=["road", "car"])
    metric.update([torch.tensor([[0, 0, 1, 0]])], [torch.tensor([[0, 1, 1, 255]])])
    assert metric.confusion.tolist() == [[1, 0], [1, 1]]
    assert metric.compute()["IoU/road"] == 0.5


def test_pixels_predicted_as_ignored_are_missed() -> None:
    metric = MeanIoU(2)
    metric.update([torch.tensor([[0, 255, 1, 255]])], [torch.tensor([[0, 0, 1, 255]])])
    result = metric.compute()
    assert [result["IoU/0"], result["IoU/1"], result["accuracy"]] == pytest.approx([0.5, 1.0, 2 / 3])


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
