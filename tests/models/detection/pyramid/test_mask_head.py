from __future__ import annotations

import pytest
import torch

from dcn.models.detection.pyramid.mask_head import MaskHead, mask_targets
from dcn.models.detection.pyramid.roi_sampling import SampledRois
from dcn.models.detection.shared.masks import paste_masks
from dcn.structures import Target


def _target(masks: torch.Tensor | None) -> Target:
    return Target(torch.tensor([[8.0, 4, 24, 20]]), torch.tensor([1]), (32, 48), masks=masks)


def _sampled(roi: list[float]) -> SampledRois:
    rois = torch.tensor([[0.0, *roi], [0.0, 1, 1, 5, 5]])
    labels, objects = torch.tensor([1, 3]), torch.tensor([0, -1])
    return SampledRois(rois, labels, objects, rois[:, 1:], torch.zeros(2, dtype=torch.bool))


def test_targets_cut_the_object_out() -> None:
    masks = torch.zeros(1, 32, 48, dtype=torch.bool)
    masks[0, 4:20, 8:16] = True  # the left half of the box
    got = mask_targets(_sampled([8, 4, 24, 20]).positives(), [_target(masks)], 8)
    assert got.shape == (1, 8, 8)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:, :4] = True
    assert torch.equal(got[0], expected)


def test_targets_need_masks() -> None:
    with pytest.raises(ValueError, match=r"targets\[0\] .*expected masks, got None"):
        mask_targets(_sampled([8, 4, 24, 20]).positives(), [_target(None)], 8)


def test_head_doubles_the_resolution() -> None:
    head = MaskHead(6, 3, channels=4)
    assert head(torch.randn(2, 6, 14, 14)).shape == (2, 3, 28, 28)
    assert head(torch.randn(0, 6, 14, 14)).shape == (0, 3, 28, 28)


def _naive_paste(mask: torch.Tensor, box: list[float], height: int, width: int) -> torch.Tensor:
    """Bilinear sampling at pixel centres, zero outside the mask, written as a loop."""
    side = mask.shape[0]
    result = torch.zeros(height, width)
    for row in range(height):
        for column in range(width):
            y = (row + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5
            x = (column + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5
            top, left = int(torch.tensor(y).floor()), int(torch.tensor(x).floor())
            for i, wy in ((top, 1 - (y - top)), (top + 1, y - top)):
                for j, wx in ((left, 1 - (x - left)), (left + 1, x - left)):
                    if 0 <= i < side and 0 <= j < side:
                        result[row, column] += wy * wx * mask[i, j]
    return result


@pytest.mark.parametrize(
    "box",
    [[3.2, 2.7, 17.9, 13.1], [-5.5, -3.25, 8.5, 30.75], [6.0, 6.0, 6.5, 6.6], [30.0, 30.0, 44.0, 40.0]],
    ids=["inside", "crossing", "below-a-pixel", "outside"],
)
def test_paste_equals_the_loop(box: list[float]) -> None:
    mask = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    got = paste_masks(mask[None], torch.tensor([box]), (18, 22))[0]
    expected = _naive_paste(mask, torch.tensor(box).tolist(), 18, 22)
    clear = (expected - 0.5).abs() > 1e-5
    assert torch.equal(got[clear], (expected >= 0.5)[clear])
    assert clear.float().mean() > 0.99


def test_paste_of_an_empty_box_is_empty() -> None:
    got = paste_masks(torch.ones(1, 7, 7), torch.tensor([[5.0, 5, 5, 9]]), (18, 22))
    assert not got.any()
