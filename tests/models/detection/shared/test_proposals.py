from __future__ import annotations

import pytest
import torch

from dcn.models.detection.shared.fixed_shapes import fixed_shapes
from dcn.models.detection.shared.proposals import Proposals, best_proposals


def test_the_best_come_first_and_empty_slots_are_zero() -> None:
    boxes = torch.arange(1.0, 9.0)[None, :, None].expand(2, 8, 4)
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9, 0.0, 0.3, torch.nan, 0.2], [0.5] * 8])
    keep = torch.tensor([[1, 1, 0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0, 0]]).bool()
    result = best_proposals(boxes, scores, keep, 4)
    assert result.boxes[:, :, 0].tolist() == [[2, 4, 1, 5], [4, 0, 0, 0]]  # equal scores in order, NaN counts as 0
    assert result.valid.tolist() == [[True] * 4, [True, False, False, False]]
    assert result.rois()[3:5].tolist() == [[0, 5, 5, 5, 5], [1, 4, 4, 4, 4]]
    assert [len(one) for one in result.per_image()] == [4, 1]


@pytest.mark.parametrize("forced", [False, True], ids=["trimmed", "fixed"])
def test_slots_that_are_empty_in_every_image_are_cut_off_unless_shapes_are_fixed(forced: bool) -> None:
    valid = torch.tensor([[True, False, False], [True, True, False]])
    proposals = Proposals(torch.ones(2, 3, 4), valid)
    if forced:
        with fixed_shapes():
            assert proposals.trimmed() is proposals
        return
    assert proposals.trimmed().boxes.shape == (2, 2, 4)
    assert Proposals(torch.ones(0, 3, 4), torch.ones(0, 3).bool()).trimmed().valid.shape == (0, 0)
