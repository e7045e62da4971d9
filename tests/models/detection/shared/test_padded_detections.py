from __future__ import annotations

import pytest
import torch

from dcn.models.detection.shared.fixed_shapes import fixed_shapes
from dcn.models.detection.shared.padded_detections import PaddedDetections, pad_detections
from dcn.structures import Detections


def test_padding_goes_there_and_back() -> None:
    first = Detections(torch.rand(2, 4), torch.tensor([0.9, 0.8]), torch.tensor([3, 1]))
    second = Detections(torch.rand(0, 4), torch.rand(0), torch.zeros(0).long())
    padded = pad_detections([first, second])
    assert padded.valid.tolist() == [[True, True], [False, False]]
    result, masks = padded.per_image()
    assert masks == [None, None]
    for one, given in zip(result, (first, second), strict=True):
        assert torch.equal(one.boxes, given.boxes)
        assert torch.equal(one.scores, given.scores)
        assert torch.equal(one.labels, given.labels)
    # Memory of its own: a detection must not keep the whole batch alive.
    assert result[0].boxes.untyped_storage().nbytes() == 2 * 4 * 4


@pytest.mark.parametrize("forced", [False, True], ids=["trimmed", "fixed"])
def test_slots_that_are_empty_in_every_image_are_cut_off_unless_shapes_are_fixed(forced: bool) -> None:
    valid = torch.tensor([[True, False, False], [True, True, False]])
    detections = PaddedDetections(torch.ones(2, 3, 4), torch.ones(2, 3), torch.ones(2, 3).long(), valid)
    if forced:
        with fixed_shapes():
            assert detections.trimmed() is detections
        return
    assert detections.trimmed().labels.shape == (2, 2)
