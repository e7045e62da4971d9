from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dcn.models.detection.merging import MergeRule, merge_detections
from dcn.structures import Detections

SIZE = (100, 100)


def _detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(torch.tensor(boxes).view(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


# Two boxes of one class with overlap 90 / 110, from two scales, and one of another class on top of them.
FIRST = _detections([[0.0, 0, 10, 10]], [0.9], [0])
SECOND = _detections([[1.0, 0, 11, 10], [0.0, 0, 10, 10]], [0.6, 0.5], [0, 1])
OVERLAP = 90 / 110


def test_nms_pools_the_passes_and_keeps_classes_apart() -> None:
    merged = merge_detections([SECOND, FIRST], SIZE, MergeRule(iou=0.5))
    assert merged.scores.tolist() == pytest.approx([0.9, 0.5])
    assert merged.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("suppression", "decay"),
    [("soft_nms_gaussian", np.exp(-(OVERLAP**2) / 0.6)), ("soft_nms_linear", 1 - OVERLAP)],
    ids=["gaussian", "linear"],
)
def test_soft_nms_lowers_the_score_of_the_weaker_box(suppression: str, decay: float) -> None:
    rule = MergeRule(suppression, iou=0.3, sigma=0.6)  # type: ignore[arg-type]  # a plain str in the table above
    merged = merge_detections([FIRST, SECOND], SIZE, rule)
    expected = sorted([0.9, 0.5, 0.6 * decay], reverse=True)
    assert merged.scores.tolist() == pytest.approx(expected, abs=1e-6)


def test_voting_averages_boxes_by_score() -> None:
    merged = merge_detections([FIRST, SECOND], SIZE, MergeRule(iou=0.5, box_voting=0.5))
    shift = 0.6 / (0.9 + 0.6)
    assert merged.boxes[0].tolist() == pytest.approx([shift, 0, 10 + shift, 10], abs=1e-5)
    assert merged.boxes[1].tolist() == [0, 0, 10, 10]


def test_class_thresholds_and_the_limit_count_final_scores() -> None:
    """The box of class 0 that soft-NMS leaves below its threshold does not suppress the box of class 1."""
    rule = MergeRule("soft_nms_gaussian", sigma=0.6, class_thresholds=((0, 0.55),), max_per_image=2)
    far = _detections([[50.0, 50, 60, 60]], [0.05], [1])
    merged = merge_detections([FIRST, SECOND, far], SIZE, rule)
    assert merged.labels.tolist() == [0, 1]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.5])


def test_the_result_is_clipped() -> None:
    merged = merge_detections([_detections([[-3.0, 90, 20, 101]], [0.9], [0])], SIZE, MergeRule())
    assert merged.boxes.tolist() == [[0, 90, 20, 100]]


@pytest.mark.parametrize("suppression", ["nms", "soft_nms_gaussian"])
def test_nothing_found_stays_nothing(suppression: str) -> None:
    empty = _detections([], [], [])
    rule = MergeRule(suppression, box_voting=0.5)  # type: ignore[arg-type]  # a plain str in the list above
    assert len(merge_detections([empty, empty], SIZE, rule)) == 0


@pytest.mark.parametrize("most", [20, 100])
def test_soft_nms_of_the_original_code(shared: Path, most: int) -> None:
    """Recorded with sigma 0.6 on inclusive boxes; with continuous edges (x2 + 1) overlaps are the same numbers."""
    with np.load(shared / "golden" / "utils.npz") as file:
        dets, expected = (torch.from_numpy(file[name]).double() for name in ("dets", f"softnms_0.6_max{most}"))
    edges = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    raw = Detections(dets[:, :4] + edges, dets[:, 4].contiguous(), torch.zeros(len(dets), dtype=torch.int64))
    merged = merge_detections([raw], (10_000, 10_000), MergeRule("soft_nms_gaussian", sigma=0.6, max_per_image=most))
    torch.testing.assert_close(merged.boxes, expected[:, :4] + edges, atol=1e-4, rtol=0)
    torch.testing.assert_close(merged.scores, expected[:, 4].contiguous(), atol=1e-5, rtol=0)
