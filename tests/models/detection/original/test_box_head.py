from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcn import ops
from dcn.models.detection.original.box_head import LevelRoIPool, MaxRoIPool, OffsetRoIPool, TwoLayerHead

GOLDEN = Path(__file__).parents[3] / "golden"
ROIS = torch.tensor([[0.0, 4, 4, 40, 30], [1, 0, 10, 60, 60], [0, 30, 30, 33, 33]])


class _Constant(nn.Module):
    """Gives every region the number of its level and its own x1."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return torch.stack((torch.full_like(rois[:, 1], self.level), rois[:, 1]), 1)


def test_levels_as_recorded() -> None:
    with np.load(GOLDEN / "utils.npz") as file:
        rois, levels = torch.from_numpy(file["fpn_rois"]).float(), file["fpn_level"]
    rois = rois if rois.shape[1] == 5 else torch.cat((rois.new_zeros(len(rois), 1), rois), 1)
    pool = LevelRoIPool([_Constant(level) for level in range(4)])
    assert len(set(levels.tolist())) > 2
    assert pool.level_of(rois).tolist() == levels.astype(int).tolist()


@pytest.mark.parametrize(
    ("side", "level"), [(55, 0), (56, 0), (111, 0), (112, 1), (223, 1), (224, 2), (448, 3), (5000, 3)]
)
def test_level_of_a_square(side: int, level: int) -> None:
    roi = torch.tensor([[0.0, 10, 10, 9 + side, 9 + side]])
    assert LevelRoIPool([_Constant(0)] * 4).level_of(roi).tolist() == [level]


def test_regions_keep_their_order() -> None:
    sides = torch.tensor([500.0, 20, 230, 120, 30])
    rois = torch.stack((sides * 0, sides + 1, sides * 0, sides * 2, sides - 1), 1)
    pool = LevelRoIPool([_Constant(level) for level in range(4)])
    pooled = pool([torch.zeros(1)] * 4, rois)
    assert pooled[:, 1].tolist() == (sides + 1).tolist()
    assert pooled[:, 0].tolist() == pool.level_of(rois).tolist()


def test_offsets_begin_at_rest() -> None:
    pool = OffsetRoIPool(3, 16)
    features = torch.randn(2, 3, 6, 8)
    expected = ops.deform_ps_roi_pool(features, ROIS, None, 7, 1 / 16, sample_per_part=4)
    torch.testing.assert_close(pool(features, ROIS), expected)


def test_predicted_offsets_move_the_bins() -> None:
    """On a ramp along x a shift by a tenth of the region's width is the slope times that width / stride."""
    pool = OffsetRoIPool(1, 4)
    ramp = torch.arange(64.0).expand(1, 1, 48, 64).contiguous()
    roi = torch.tensor([[0.0, 40, 40, 119, 119]])
    still = pool(ramp, roi)
    with torch.no_grad():
        pool.offset_fc.bias[:49] = 1.0  # x of all bins
    torch.testing.assert_close(pool(ramp, roi) - still, torch.full((1, 1, 7, 7), 0.1 * 80 / 4), rtol=1e-4, atol=0)


def test_gradients_reach_the_offsets() -> None:
    pool = OffsetRoIPool(2, 8)
    features = torch.randn(2, 2, 8, 8, requires_grad=True)
    pool(features, ROIS).square().sum().backward()
    assert pool.offset_fc.weight.grad is not None
    assert pool.offset_fc.weight.grad.abs().sum() > 0
    assert features.grad is not None


def test_a_level_without_regions_gets_zero_gradients() -> None:
    pool = LevelRoIPool([OffsetRoIPool(2, stride) for stride in (4, 8, 16, 32)])
    maps = [torch.randn(2, 2, 64 // s, 64 // s, requires_grad=True) for s in (4, 8, 16, 32)]
    pool(maps, ROIS).sum().backward()
    for parameter in pool.parameters():
        assert parameter.grad is not None
    assert all(
        parameter.grad.abs().sum() == 0 for parameter in pool.levels[3].parameters() if parameter.grad is not None
    )


def test_plain_pooling_takes_the_largest() -> None:
    features = torch.zeros(1, 1, 8, 8)
    features[0, 0, 2, 3] = 5.0
    pooled = MaxRoIPool(16)(features, torch.tensor([[0.0, 0, 0, 127, 127]]))
    # 9 cells (0 .. 8, both ends counted) in 7 bins, which overlap: row 2 lies in bins 1 and 2, column 3 in
    # bins 2 and 3 (which begins at 27 / 7 = 3.86, rounded down).
    assert pooled[0, 0].nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    assert pooled.max() == 5.0


def test_the_fully_connected_layers() -> None:
    torch.manual_seed(0)
    head = TwoLayerHead(2 * 49, 3, channels=5)
    pooled = torch.randn(4, 2, 7, 7)
    hidden = pooled.numpy().reshape(4, -1)
    first, second = head.shared_fcs
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    for layer in (first, second):
        hidden = np.maximum(hidden @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    logits, deltas = head(pooled)
    expected = hidden @ head.fc_reg.weight.detach().numpy().T + head.fc_reg.bias.detach().numpy()
    np.testing.assert_allclose(deltas.detach().numpy().reshape(4, 16), expected, atol=1e-6)
    np.testing.assert_allclose(logits.detach(), hidden @ head.fc_cls.weight.detach().numpy().T, atol=1e-6)
    assert 0.008 < float(first.weight.detach().std()) < 0.012
