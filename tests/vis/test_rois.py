from __future__ import annotations

import pytest
import torch

from dcn.vis import draw_roi_parts, roi_parts

BOX = torch.tensor([10.0, 20, 70, 50])


def test_bins_tile_the_region_row_by_row() -> None:
    before, after = roi_parts(BOX, torch.zeros(2, 2, 3))
    expected = [
        [10, 20, 30, 35],
        [30, 20, 50, 35],
        [50, 20, 70, 35],
        [10, 35, 30, 50],
        [30, 35, 50, 50],
        [50, 35, 70, 50],
    ]
    assert before.tolist() == expected
    assert torch.equal(after, before)


def test_offsets_are_x_first_and_shares_of_the_region() -> None:
    offset = torch.zeros(2, 2, 3)
    offset[0, 1, 0] = 1.0
    offset[1, 1, 0] = -2.0
    before, after = roi_parts(BOX, offset, gamma=0.1)
    assert (after - before)[3].tolist() == pytest.approx([6, -6, 6, -6])
    assert int((after != before).any(1).sum()) == 1


def test_more_bins_than_parts_move_with_their_part() -> None:
    offset = torch.tensor([[[1.0, 2]], [[0, 0]]])
    before, after = roi_parts(BOX, offset, bins=(1, 5))
    assert (after - before)[:, 0].tolist() == pytest.approx([6, 6, 6, 12, 12])


def test_the_picture_shows_region_and_parts_where_they_are() -> None:
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    offset = torch.zeros(2, 1, 1)
    offset[1] = 1.0
    picture = draw_roi_parts(image, BOX, offset)
    assert picture[:, 20, 40].tolist() == [86, 180, 233]
    assert picture[:, 23, 40].tolist() == [230, 80, 0]
    assert picture[:, 52, 40].tolist() == [230, 80, 0]
    assert picture[:, 5, 5].tolist() == [0, 0, 0]
    light = draw_roi_parts(image, BOX, offset, weights=torch.zeros(1, 1))
    assert light[:, 52, 40].tolist() == [60, 60, 60]


@pytest.mark.parametrize(
    ("offset", "weights", "message"),
    [
        pytest.param(torch.zeros(3, 3, 2), None, "offset", id="offset"),
        pytest.param(torch.zeros(2, 3, 2), torch.ones(3, 3), "weights", id="weights"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(offset: torch.Tensor, weights: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_roi_parts(torch.zeros(3, 60, 80, dtype=torch.uint8), BOX, offset, weights=weights)
