"""The comparison of an export with its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn.export.parity import Parity, Tolerance, compare
from dcn.structures import Detections, SegmentationMap

IMAGES = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2
SIZES = [(8, 8)] * 2


class _Fake:
    """A model with known results, one image after the other."""

    def __init__(self, task: str, *results: Any) -> None:
        self.task, self.results = task, list(results)

    def __call__(self, images: Sequence[Tensor], *_: Any) -> list[Any]:
        return [self.results.pop(0) for _ in images]


def _found(shift: float = 0.0, score: float = 0.0, count: int = 3) -> Detections:
    boxes = torch.tensor([[0.0, 0, 40, 40], [0, 0, 40, 40], [50, 50, 90, 90]])[:count] + shift
    return Detections(boxes, torch.tensor([0.9, 0.8, 0.7])[:count] + score, torch.tensor([0, 1, 0])[:count])


def _compare(first: Detections, second: Detections) -> Parity:
    return compare(_Fake("detection", first, first), _Fake("detection", first, second), IMAGES, SIZES, Tolerance())


def test_equal_results_pass() -> None:
    report = _compare(_found(), _found())
    assert (report.detections, report.boxes, report.scores, report.unmatched, report.failures) == (6, 0, 0, 0, [])
    assert str(report).startswith("2 images, 6 detections: boxes differ by 0 px")


def test_order_of_detections_does_not_matter() -> None:
    actual = _found()
    order = torch.tensor([2, 0, 1])
    turned = Detections(actual.boxes[order], actual.scores[order], actual.labels[order])
    assert _compare(actual, turned).failures == []


@pytest.mark.parametrize(
    ("second", "name"),
    [(_found(shift=0.2), "boxes"), (_found(score=0.01), "scores"), (_found(count=2), "unmatched")],
    ids=["boxes", "scores", "unmatched"],
)
def test_differences_fail_by_name(second: Detections, name: str) -> None:
    assert [text.partition(":")[0] for text in _compare(_found(), second).failures] == [name]


def test_masks_and_nothing_found() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    other = masks.clone()
    other[0, 0] = True
    report = _compare(replace(_found(), masks=masks), replace(_found(), masks=other))
    assert report.pixels == pytest.approx(8 / 192)
    assert [text.partition(":")[0] for text in report.failures] == ["pixels"]
    empty = _found(count=0)
    assert _compare(empty, empty).failures == []
    assert [text.partition(":")[0] for text in _compare(empty, _found()).failures] == ["unmatched"]


def test_segmentation_counts_pixels() -> None:
    first, second = (torch.zeros(8, 8, dtype=torch.int64) for _ in range(2))
    second[0] = 1
    one, other = (_Fake("segmentation", SegmentationMap(t)) for t in (first, second))
    report = compare(one, other, IMAGES[:1], SIZES[:1], Tolerance())
    assert report.pixels == pytest.approx(1 / 8)
    assert str(report) == "1 image: 12 % of the pixels differ"


def test_no_images_is_no_proof() -> None:
    with pytest.raises(ValueError, match="expected at least one image"):
        compare(_Fake("detection"), _Fake("detection"), [], [], Tolerance())


@pytest.mark.parametrize(("own", "undecided"), [(0.05, False), (0.1, True)], ids=["conditioned", "arbitrary"])
def test_a_model_whose_own_rounding_differs_as_much(own: float, undecided: bool) -> None:
    report = _compare(_found(), _found(shift=0.2))
    again = replace(report, rounding=_compare(_found(), _found(shift=own)))
    assert again.failures == report.failures != []
    assert again.undecided is undecided
    assert not report.undecided
    assert "no proof" in str(again)
    assert "no proof" not in str(report)


def test_a_box_without_area_has_its_counterpart() -> None:
    flat = Detections(torch.tensor([[9.0, 1, 9, 7]]), torch.tensor([0.9]), torch.tensor([0]))
    moved = Detections(flat.boxes + 0.05, flat.scores, flat.labels)
    report = _compare(flat, moved)
    assert (report.unmatched, report.failures) == (0, [])
    assert report.boxes == pytest.approx(0.05, abs=1e-6)
    far = Detections(flat.boxes + 2, flat.scores, flat.labels)
    assert [text.partition(":")[0] for text in _compare(flat, far).failures] == ["unmatched"]
