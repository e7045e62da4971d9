from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dcn.engine.distributed import World
from dcn.engine.evaluate import detect, evaluate
from dcn.structures import Sample, SegmentationMap
from tests.engine.tiny import CountingMetric, new_detector, sample

CPU = torch.device("cpu")


def _batches() -> Iterator[list[Sample]]:
    """Ten images, enlarged to twice their size; the targets keep the size of the file."""
    for start in range(0, 10, 4):
        originals = [sample(index) for index in range(start, min(start + 4, 10))]
        yield [Sample(one.image.repeat_interleave(2, 1).repeat_interleave(2, 2), one.target) for one in originals]


def test_figures_are_those_of_the_detections() -> None:
    model = new_detector().train()
    found = [one for detections, _ in detect(model, _batches(), CPU) for one in detections]
    right = [int(one.labels[0]) == index % 2 for index, one in enumerate(found)]
    assert len(found) == 10
    assert 0 < sum(right) < 10
    assert evaluate(model, _batches(), CountingMetric(), World(CPU)) == {"AP": sum(right) / 10}
    assert model.training


def test_detections_are_in_pixels_of_the_target() -> None:
    model = new_detector()
    detections, targets = next(iter(detect(model, _batches(), CPU)))
    assert model.given[0] == (12, 20)
    assert targets[0].size == (6, 10)
    assert detections[0].boxes[0].tolist() == [0, 0, 10, 6]


def test_a_segmentation_set_is_refused() -> None:
    wrong = Sample(sample(0).image, SegmentationMap(torch.zeros(6, 10, dtype=torch.int64)))
    with pytest.raises(ValueError, match="judged on boxes, got SegmentationMap"):
        list(detect(new_detector(), [[wrong]], CPU))
