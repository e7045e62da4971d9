"""The monitor of offsets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dcn import ops
from dcn.compat import dcn_v2, mmcv
from dcn.nn import DeformConv2d, OffsetMonitor, offset_parameters
from dcn.nn.offset_layer import OffsetLayer


def _model() -> tuple[nn.Sequential, torch.Tensor]:
    """A model and the offset bias of its second layer."""
    last = DeformConv2d(2, 2, 1)
    assert last.conv_offset.bias is not None
    return nn.Sequential(DeformConv2d(2, 2, 3, padding=1), nn.ReLU(), last), last.conv_offset.bias


def test_statistics_of_each_layer() -> None:
    model, bias = _model()
    nn.init.constant_(bias, -1.0)
    with OffsetMonitor(model) as monitor:
        model(torch.randn(2, 2, 4, 5))
        model(torch.randn(1, 2, 4, 5))
    first, second = monitor.report()
    assert (first.layer, first.calls, first.mean, first.largest, first.broken) == ("0", 2, 0.0, 0.0, 0.0)
    # 9 taps of 4x5 locations, of which 3*4 rows and 3*5 columns fit: (3*4-2)*(3*5-2) inside.
    assert first.outside == pytest.approx(1 - 10 * 13 / 180)
    assert (second.mean, second.largest) == (1.0, 1.0)
    assert second.outside == pytest.approx(1 - 3 * 4 / 20)
    assert monitor.first_broken is None


def test_names_the_layer_where_nan_began() -> None:
    model, bias = _model()
    with torch.no_grad():
        bias[0] = float("nan")
    with OffsetMonitor(model) as monitor:
        model(torch.randn(1, 2, 4, 5))
        assert monitor.first_broken == "2"
        assert monitor.report()[1].broken == 0.5
        monitor.reset()
        model(torch.full((1, 2, 4, 5), float("nan")))
    assert monitor.first_broken == "0 (input)"
    model(torch.randn(1, 2, 4, 5))
    assert monitor.report()[0].calls == 1


def test_needs_a_deformable_layer() -> None:
    with pytest.raises(ValueError, match=r"^model: expected at least one"):
        OffsetMonitor(nn.Linear(2, 2))


PACKS: dict[str, Any] = {
    "mmcv v1": lambda: mmcv.DeformConv2dPack(4, 4, 3, stride=2, padding=1, deform_groups=2),
    "mmcv v2": lambda: mmcv.ModulatedDeformConv2dPack(4, 4, 3, stride=2, padding=1, deform_groups=2),
    "DCNv2": lambda: dcn_v2.DCN(4, 4, 3, 2, 1, deformable_groups=2),
}


@pytest.mark.parametrize("name", PACKS)
def test_drop_ins_are_watched(name: str) -> None:
    assert isinstance(PACKS[name](), OffsetLayer)
    layer = PACKS[name]()
    branch = list(offset_parameters(nn.Sequential(layer)))
    assert [tuple(p.shape) for p in branch] == [tuple(p.shape) for p in layer.offset_branch.parameters()]
    nn.init.normal_(branch[0])
    x = torch.randn(2, 4, 7, 9)
    with OffsetMonitor(nn.Sequential(layer)) as monitor:
        output = layer(x)
    offset, mask = layer.offsets(x)
    weights = dict(layer.named_parameters())
    own = ops.deform_conv2d(x, offset, weights["weight"], weights.get("bias"), 2, 1, 1, mask)
    torch.testing.assert_close(output, own)
    assert (mask is None) == (name == "mmcv v1")
    (row,) = monitor.report()
    assert row.calls == 1
    assert row.mean == pytest.approx(offset.abs().mean().item(), rel=1e-5)
    assert layer.offset_groups == 2


def test_a_layer_whose_offsets_come_from_the_caller_is_not_watched() -> None:
    assert not isinstance(mmcv.ModulatedDeformConv2d(4, 4, 3), OffsetLayer)
