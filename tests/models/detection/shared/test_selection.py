from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.models.detection.shared.fixed_shapes import fixed_shapes
from dcn.models.detection.shared.selection import SelectionRule, select_detections
from dcn.structures import Detections

LATER = SelectionRule(0.05, 0.5, 100)
ORIGINAL = SelectionRule(1e-3, 0.3, 100, original=True)


def _selected(box: Tensor, scores: Tensor, rule: SelectionRule, size: tuple[int, int] = (100, 100)) -> Detections:
    """The choice for a single image."""
    (result,), _ = select_detections(box[None], scores[None], torch.tensor([size]), rule).per_image()
    return result


def test_selection_by_hand() -> None:
    box = torch.tensor([[[0.0, 0, 10, 10]], [[0.0, 0, 10, 9]], [[50.0, 50, 60, 60]]])
    got = _selected(box, torch.tensor([[0.9, 0.05], [0.8, 0.6], [0.04, 0.7]]), LATER)
    assert got.labels.tolist() == [0, 1, 1]
    torch.testing.assert_close(got.scores, torch.tensor([0.9, 0.7, 0.6]))
    assert got.boxes.tolist() == [[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 9]]


def test_selection_takes_the_box_of_the_class_and_the_best() -> None:
    box = torch.tensor([[[0.0, 0, 10, 10], [20.0, 0, 30, 10]]])
    got = _selected(box, torch.tensor([[0.3, 0.6]]), SelectionRule(0.1, 0.5, 1))
    assert got.boxes.tolist() == [[20, 0, 30, 10]]


@pytest.mark.parametrize("rule", [LATER, ORIGINAL], ids=["later", "original"])
def test_selection_of_nothing(rule: SelectionRule) -> None:
    assert len(_selected(torch.zeros(0, 1, 4), torch.zeros(0, 3), rule)) == 0
    assert len(_selected(torch.zeros(2, 1, 4), torch.zeros(2, 3), rule)) == 0


def test_an_image_of_a_batch_is_chosen_from_alone() -> None:
    torch.manual_seed(0)
    corners = torch.rand(3, 30, 2, 2) * 60
    box, scores = torch.cat((corners, corners + torch.rand(3, 30, 2, 2) * 40), 3), torch.rand(3, 30, 2)
    scores[1, 10:] = -1  # slots that do not count
    with fixed_shapes():
        together = select_detections(box, scores, torch.full((3, 2), 100), LATER)
    assert together.boxes.shape == (3, 60, 4)
    for one, own_boxes, own_scores in zip(together.per_image()[0], box, scores, strict=True):
        expected = _selected(own_boxes, own_scores, LATER)
        assert torch.equal(one.boxes, expected.boxes)
        assert torch.equal(one.scores, expected.scores)
        assert torch.equal(one.labels, expected.labels)
    assert (together.scores[1][together.valid[1]] > 0.05).all()


def _select(boxes: np.ndarray, scores: np.ndarray, threshold: float, most: int) -> list[tuple[int, float]]:
    """Class by class and box by box, by definition: (class, score), best first."""
    kept: list[tuple[int, float]] = []
    for label in range(scores.shape[1]):
        chosen: list[np.ndarray] = []
        for row in np.argsort(-scores[:, label]):
            box = boxes[row, label if boxes.shape[1] > 1 else 0]
            if scores[row, label] > threshold and all(_iou(box, other) <= 0.3 for other in chosen):
                chosen.append(box)
                kept.append((label, float(scores[row, label])))
    kept.sort(key=lambda pair: -pair[1])
    return [pair for pair in kept if pair[1] >= kept[min(most, len(kept)) - 1][1]]


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    overlap = np.prod(np.maximum(high - low + 1, 0))
    return float(overlap / (np.prod(first[2:] - first[:2] + 1) + np.prod(second[2:] - second[:2] + 1) - overlap))


@pytest.mark.parametrize("slots", [1, 3], ids=["agnostic", "per-class"])
@pytest.mark.parametrize("most", [5, 1000], ids=["best-five", "all"])
def test_post_processing_by_definition(slots: int, most: int) -> None:
    random = np.random.default_rng(slots)
    corners = random.uniform(0, 60, (40, slots, 2))
    boxes = np.concatenate((corners, corners + random.uniform(0, 40, (40, slots, 2))), 2).astype(np.float32)
    scores = random.choice(np.linspace(0, 1, 400, dtype=np.float32), (40, 3), replace=False)
    rule = SelectionRule(0.2, 0.3, most, original=True)
    result = _selected(torch.from_numpy(boxes), torch.from_numpy(scores), rule)
    expected = _select(boxes, scores, 0.2, most)
    assert result.labels.tolist() == [label for label, _ in expected]
    assert result.scores.tolist() == pytest.approx([score for _, score in expected])


def test_ties_with_the_last_detection_are_kept_and_boxes_get_edges() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [60, 0, 99, 9]])[:, None]
    scores = torch.tensor([[0.9], [0.5], [0.5], [0.1]])
    result = _selected(boxes, scores, SelectionRule(1e-3, 0.3, 2, original=True), (10, 90))
    assert result.scores.tolist() == pytest.approx([0.9, 0.5, 0.5])
    assert result.boxes[0].tolist() == [0, 0, 10, 10]
    everything = _selected(boxes, scores, ORIGINAL, (10, 90))
    assert everything.boxes[3].tolist() == [60, 0, 90, 10]
