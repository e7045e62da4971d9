from __future__ import annotations

import torch
from torch import nn

from dcn.nn import DeformConv2d
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


def test_a_model_without_deformable_layers_has_no_probe() -> None:
    assert offset_probe(nn.Conv2d(2, 2, 3)) is None
