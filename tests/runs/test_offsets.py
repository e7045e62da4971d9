from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dcn.nn import DeformConv2d, DeformRoIPool, RoIOffsetHealth, RoIOffsetMonitor
from dcn.ops import deform_roi_pool
from dcn.runs.offsets import offset_probe


def _layer(shift: float) -> DeformConv2d:
    layer = DeformConv2d(2, 2, 3, padding=1)
    nn.init.zeros_(layer.conv_offset.weight)
    assert layer.conv_offset.bias is not None
    nn.init.constant_(layer.conv_offset.bias, shift)
    return layer


def test_the_size_of_the_offsets_is_given_in_pixels() -> None:
    model = nn.Sequential(_layer(0.5), nn.ReLU(), _layer(-1.5))
    probe = offset_probe(model)
    assert probe is not None
    with probe() as values:
        model(torch.rand(1, 2, 8, 8))
    actual = values()
    assert actual["offsets/mean"] == 1.0
    assert actual["offsets/largest"] == 1.5
    # Of 3 x 3 samples shifted by half a pixel down and right, those of the last row or column leave the map.
    assert 0 < actual["offsets/outside"] < 1
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_that_did_not_run_do_not_count() -> None:
    model = nn.ModuleList([_layer(0.5), _layer(9.0)])
    probe = offset_probe(model)
    assert probe is not None
    with probe() as values:
        model[0](torch.rand(1, 2, 8, 8))
    assert values()["offsets/largest"] == 0.5
    with probe() as values:
        pass
    assert values() == {}


def test_the_offsets_of_roi_pooling_are_given_as_shares_of_the_region() -> None:
    layer = DeformRoIPool(2, 3, deform_fc_channels=4, gamma=0.5, sampling_ratio=1)
    last = layer.offset_fc[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -0.2)
    probe = offset_probe(layer)
    assert probe is not None
    boxes = torch.tensor([[0.0, 1.0, 1.0, 6.0, 5.0]])
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    with probe() as values:
        (watched,) = torch.autograd.grad(layer(images, boxes).sum(), images)
    assert values() == {"offsets/pool": pytest.approx(0.1)}
    (unwatched,) = torch.autograd.grad(layer(images, boxes).sum(), images)
    assert torch.equal(watched, unwatched)


def test_broken_offsets_of_roi_pooling_are_counted() -> None:
    offset = torch.zeros(1, 2, 2, 2)
    offset[0, 0, 0, 0], offset[0, 1, 1, 1] = math.nan, -3.0
    boxes = torch.tensor([[0.0, 1.0, 1.0, 6.0, 5.0]])
    with RoIOffsetMonitor() as monitor:
        deform_roi_pool(torch.rand(1, 3, 8, 8), boxes, offset, 2, gamma=0.1)
        deform_roi_pool(torch.rand(1, 3, 8, 8), boxes, None, 2)
    seen = monitor.report()
    assert (seen.calls, seen.broken) == (1, 0.125)
    assert (seen.mean, seen.largest) == (pytest.approx(0.3 / 7), pytest.approx(0.3))
    monitor.reset()
    assert monitor.report() == RoIOffsetHealth(0.0, 0.0, 0.0, 0)


def test_a_model_without_deformable_layers_has_no_probe() -> None:
    assert offset_probe(nn.Conv2d(2, 2, 3)) is None
