from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dcn import ops
from dcn.models.detection.pyramid.roi_extractor import RoIAlign, RoIExtractor, pyramid_level
from dcn.models.detection.shared.fixed_shapes import fixed_shapes
from dcn.models.detection.shared.regions import to_rois


def _box(width: float, height: float) -> list[float]:
    return [3.0, 5.0, 3.0 + width, 5.0 + height]


def test_levels_by_hand() -> None:
    sides = [1, 111, 112, 223, 224, 447, 448, 5000]
    got = pyramid_level(torch.tensor([_box(s, s) for s in sides]), 4)
    assert got.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_levels_equal_the_formula() -> None:
    sizes = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 900 + 0.1
    got = pyramid_level(torch.cat((torch.zeros(200, 2), sizes), 1), 4)
    expected = [min(max(math.floor(math.log2(math.sqrt(w * h) / 56 + 1e-6)), 0), 3) for w, h in sizes.tolist()]
    assert got.tolist() == expected


def test_empty_box_goes_to_the_finest_level() -> None:
    assert pyramid_level(torch.zeros(1, 4), 4).tolist() == [0]


def test_to_rois_numbers_the_images() -> None:
    got = to_rois([torch.tensor([_box(1, 2)]), torch.zeros(0, 4), torch.tensor([_box(3, 4), _box(5, 6)])])
    assert got[:, 0].tolist() == [0, 2, 2]
    assert got[:, 1:].tolist() == [_box(1, 2), _box(3, 4), _box(5, 6)]


class _Mark(nn.Module):
    """Returns the width of each region times 10 to its own power."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.factor = 10**power

    def forward(self, feature: Tensor, rois: Tensor) -> Tensor:
        return (rois[:, 3] - rois[:, 1]).mul(self.factor).view(-1, 1, 1, 1)


def test_results_keep_the_order_of_the_regions() -> None:
    extractor = RoIExtractor([_Mark(i) for i in range(4)])
    sides = [500.0, 20, 150, 300, 30, 600]
    rois = torch.tensor([[0, *_box(s, s)] for s in sides])
    got = extractor([torch.zeros(1)] * 5, rois)
    assert got.flatten().tolist() == [500_000.0, 20, 1500, 30_000, 30, 600_000]


def test_regions_are_aligned_on_their_level() -> None:
    torch.manual_seed(0)
    features = [torch.randn(2, 3, 160 // s, 160 // s) for s in (4, 8, 16, 32)]
    rois = torch.tensor([[1, 10.0, 20, 40, 60], [0, 0.0, 0, 150, 140]])
    got = RoIExtractor([RoIAlign(7, s) for s in (4, 8, 16, 32)])(features, rois)
    expected = [
        ops.roi_align(features[0], rois[:1], 7, 1 / 4, 0, True),
        ops.roi_align(features[1], rois[1:], 7, 1 / 8, 0, True),
    ]
    torch.testing.assert_close(got, torch.cat(expected))


def test_fixed_shapes_give_the_same_values_and_gradients() -> None:
    """There every level is given all regions, those of other levels as boxes that are none."""
    torch.manual_seed(0)
    features = [torch.randn(2, 3, 160 // s, 160 // s, requires_grad=True) for s in (4, 8, 16, 32)]
    rois = torch.tensor([[i % 2, 3.0 * i, 2.0, 3.0 * i + s, 2.0 + s] for i, s in enumerate((20, 130, 300, 500, 240))])
    extractor = RoIExtractor([RoIAlign(7, s) for s in (4, 8, 16, 32)])
    result = []
    for way in (nullcontext, fixed_shapes):
        with way():
            pooled = extractor(features, rois)
        result.append((pooled, *torch.autograd.grad(pooled.square().sum(), features)))
    assert set(pyramid_level(rois[:, 1:], 4).tolist()) == {0, 1, 2, 3}
    for ours, theirs in zip(*result, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_regions() -> None:
    features = [torch.randn(1, 3, 8 >> i, 8 >> i) for i in range(4)]
    got = RoIExtractor([RoIAlign(7, s) for s in (4, 8, 16, 32)])(features, torch.zeros(0, 5))
    assert got.shape == (0, 3, 7, 7)
