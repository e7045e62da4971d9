from __future__ import annotations

import pytest
import torch

from dcn.metrics.detection import check_batch, image_order
from dcn.structures import Detections, Target


def _target(label: int = 0) -> Target:
    return Target(torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([label]), (9, 9), image_id="tree")


def _detections(label: int = 0, score: float = 0.5, x: float = 1.0) -> Detections:
    return Detections(torch.tensor([[x, 0, 5, 5]]), torch.tensor([score]), torch.tensor([label]))


@pytest.mark.parametrize(
    ("detections", "targets", "message"),
    [
        pytest.param([], [_target()], "one entry for each of the 1 targets, got 0", id="count"),
        pytest.param([_detections()], [_target(3)], "targets: expected labels in 0..1", id="target-label"),
        pytest.param([_detections(-1)], [_target()], "detections: expected labels in 0..1", id="label"),
        pytest.param([_detections(score=float("nan"))], [_target()], "finite scores.*'tree'", id="nan-score"),
        pytest.param([_detections(x=float("inf"))], [_target()], "finite boxes.*'tree'", id="infinite-box"),
    ],
)
def test_bad_batches_are_refused(detections: list[Detections], targets: list[Target], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_batch(detections, targets, 2)


def test_images_are_ordered_by_number_then_by_text() -> None:
    ids: list[int | str] = [10, "b", 9, "a10", "a9"]
    assert sorted(ids, key=image_order) == [9, 10, "a10", "a9", "b"]
