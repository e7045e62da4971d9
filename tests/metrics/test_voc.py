from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from dcn.metrics import VocAP, average_precision
from dcn.metrics.voc import Method
from dcn.structures import Detections, Target

from .made_up import image

CLASSES = ["ant", "bee", "cow"]


def _boxes(boxes: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def _target(boxes: Sequence[Sequence[float]], labels: list[int], difficult: list[bool] | None = None) -> Target:
    flags = None if difficult is None else torch.tensor(difficult)
    return Target(_boxes(boxes), torch.tensor(labels), (99, 99), difficult=flags)


def _detections(boxes: Sequence[Sequence[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(_boxes(boxes), torch.tensor(scores), torch.tensor(labels).long())


def _plain_ap(pairs: list[tuple[Detections, Target]], label: int, threshold: float, method: Method) -> float:
    """The protocol written down as plainly as possible, in 1-based inclusive coordinates with +1."""
    entries = []
    objects = 0
    for detections, target in sorted(pairs, key=lambda pair: int(pair[1].image_id)):
        truth = [[x1 + 1, y1 + 1, x2, y2] for x1, y1, x2, y2 in target.boxes[target.labels == label].tolist()]
        ignored = target.ignored[target.labels == label].tolist()
        objects += ignored.count(False)
        used = [False] * len(truth)
        mine = [i for i in range(len(detections)) if int(detections.labels[i]) == label]
        for i in sorted(mine, key=lambda i: -float(detections.scores[i])):
            x1, y1, x2, y2 = detections.boxes[i].tolist()
            best, which = -1.0, -1
            for j, t in enumerate(truth):
                w = min(x2, t[2]) - max(x1 + 1, t[0]) + 1
                h = min(y2, t[3]) - max(y1 + 1, t[1]) + 1
                if w > 0 and h > 0:
                    union = (x2 - x1) * (y2 - y1) + (t[2] - t[0] + 1) * (t[3] - t[1] + 1) - w * h
                    if w * h / union > best:
                        best, which = w * h / union, j
            if best > threshold and ignored[which]:
                continue
            right = best > threshold and not used[which]
            if right:
                used[which] = True
            entries.append((float(detections.scores[i]), right))
    entries.sort(key=lambda entry: -entry[0])
    if not objects:
        return math.nan
    flags = np.array([right for _, right in entries], dtype=bool)
    recall, precision = np.cumsum(flags) / objects, np.cumsum(flags) / np.arange(1, len(flags) + 1)
    if method == "11point":
        return sum(max(precision[recall >= t], default=0.0) for t in np.arange(0, 1.1, 0.1)) / 11
    best_from = [max(precision[i:]) for i in range(len(precision))]
    return float(sum((recall[i] - (recall[i - 1] if i else 0)) * best_from[i] for i in range(len(recall))))


@pytest.mark.parametrize("method", ["area", "11point"])
@pytest.mark.parametrize("seed", [0, 100, 200])
def test_equals_the_protocol_written_plainly(seed: int, method: Method) -> None:
    pairs = [image(seed + i, len(CLASSES)) for i in range(12)]
    metric = VocAP(CLASSES, method=method)
    metric.update([detections for detections, _ in pairs], [target for _, target in pairs])
    result = metric.compute()
    for key, threshold in (("AP50", 0.5), ("AP70", 0.7)):
        expected = [_plain_ap(pairs, label, threshold, method) for label in range(len(CLASSES))]
        assert [result[f"{key}/{name}"] for name in CLASSES] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert result[key] == pytest.approx(float(np.nanmean(expected)), abs=1e-12)


def test_overlap_must_be_greater_than_the_threshold() -> None:
    metric = VocAP(["ant"], thresholds=(0.5, 0.499))
    metric.update([_detections([[0, 0, 10, 5]], [0.9], [0])], [_target([[0, 0, 10, 10]], [0])])
    assert metric.compute() == {"AP50": 0.0, "AP50/ant": 0.0, "AP49.9": 1.0, "AP49.9/ant": 1.0}


def test_a_second_detection_of_an_object_is_wrong() -> None:
    metric = VocAP(["ant"], thresholds=(0.5,))
    boxes = [(0, 0, 10, 10), (0, 0, 10, 10), (50, 50, 60, 60)]
    metric.update([_detections(boxes, [0.9, 0.8, 0.7], [0, 0, 0])], [_target([boxes[0], boxes[2]], [0, 0])])
    assert metric.compute()["AP50"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_difficult_objects_neither_help_nor_hurt() -> None:
    metric = VocAP(["ant"], thresholds=(0.5,))
    boxes = [(0, 0, 10, 10), (50, 50, 60, 60)]
    detections = _detections([boxes[1], boxes[1], boxes[0]], [0.9, 0.8, 0.7], [0, 0, 0])
    metric.update([detections], [_target(boxes, [0, 0], [False, True])])
    assert metric.compute()["AP50"] == 1.0


def test_classes_without_objects_are_left_out_of_the_mean() -> None:
    metric = VocAP(CLASSES, thresholds=(0.5,))
    metric.update(
        [_detections([[0, 0, 9, 9], [0, 0, 9, 9]], [0.9, 0.8], [0, 2])], [_target([[0, 0, 9, 9]] * 2, [0, 1])]
    )
    result = metric.compute()
    assert result == pytest.approx({"AP50": 0.5, "AP50/ant": 1.0, "AP50/bee": 0.0, "AP50/cow": math.nan}, nan_ok=True)
    assert list(metric.curves(0.5)) == ["ant", "bee"]


def test_nothing_at_all_is_nan_and_reset_returns_there() -> None:
    metric = VocAP(["ant"])
    assert all(math.isnan(value) for value in metric.compute().values())
    metric.update([_detections([], [], [])], [_target([[0, 0, 9, 9]], [0])])
    assert metric.compute()["AP50"] == 0.0
    metric.reset()
    assert all(math.isnan(value) for value in metric.compute().values())


@pytest.mark.parametrize("method", ["area", "11point"])
def test_merged_halves_equal_the_whole(method: Method) -> None:
    pairs = [image(seed, len(CLASSES)) for seed in range(10)]
    whole, odd, even = (VocAP(CLASSES, method=method) for _ in range(3))
    for number, (detections, target) in enumerate(pairs):
        whole.update([detections], [target])
        (odd if number % 2 else even).update([detections], [target])
    odd.merge(even)
    assert odd.compute() == whole.compute()
    with pytest.raises(ValueError, match="same classes"):
        odd.merge(VocAP(["ant"], method=method))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"thresholds": ()}, "thresholds", id="no-threshold"),
        pytest.param({"thresholds": (50,)}, "thresholds", id="percent"),
        pytest.param({"method": "12point"}, "method", id="method"),
    ],
)
def test_wrong_options_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VocAP(["ant"], **arguments)  # type: ignore[arg-type]


def test_average_precision_equals_the_original_code(shared: Path) -> None:
    golden = np.load(shared / "golden" / "utils.npz")
    assert average_precision(golden["voc_rec"], golden["voc_prec"], "11point") == pytest.approx(
        float(golden["voc_ap07"])
    )
    assert average_precision(golden["voc_rec"], golden["voc_prec"], "area") == pytest.approx(
        float(golden["voc_ap_area"])
    )


def test_eleven_points_use_the_steps_of_the_kit() -> None:
    """At recall exactly 3/5 the kit's step 0.6000000000000001 is not reached, so 6 and not 7 points count."""
    assert average_precision(np.array([0.2, 0.4, 0.6]), np.ones(3), "11point") == pytest.approx(6 / 11)
