from __future__ import annotations

from typing import Any

import pytest
import torch

from dcn.models.backbones.original import DeformLayers, last_layers, original_resnet
from dcn.nn import DeformConv2d


def _resnet(layers: DeformLayers, **options: Any) -> Any:
    options = {"c5_dilation": 2, "offset_groups": 2, "dilated_offsets": True} | options
    return original_resnet(
        101,
        width=1 / 16,
        stem_channels=8,
        style="caffe",
        pool="ceil",
        norm="frozen",
        frozen_stages=1,
        deform_layers=layers,
        **options,
    )


# The rows of Table 1 of the paper.
TABLE = {
    0: set(),
    1: {(5, 2)},
    2: {(5, 2), (5, 1)},
    3: {(5, 2), (5, 1), (5, 0)},
    6: {(5, 2), (5, 1), (5, 0), (4, 22), (4, 21), (4, 20)},
}


@pytest.mark.parametrize("count", TABLE)
def test_the_last_layers(count: int) -> None:
    assert last_layers(count, (3, 4, 23, 3)) == TABLE[count]
    layers = {name for name, module in _resnet(count).named_modules() if isinstance(module, DeformConv2d)}
    assert layers == {f"layer{stage - 1}.{index}.conv2" for stage, index in TABLE[count]}


@pytest.mark.parametrize("count", [-1, 31])
def test_impossible_counts(count: int) -> None:
    with pytest.raises(ValueError, match=f"deform_layers: expected 0 to 30 layers, got {count}"):
        last_layers(count, (3, 4, 23, 3))


def test_layers_by_name() -> None:
    layers = {name for name, module in _resnet(("c3.3", "c5")).named_modules() if isinstance(module, DeformConv2d)}
    assert layers == {"layer2.3.conv2", "layer4.0.conv2", "layer4.1.conv2", "layer4.2.conv2"}


@pytest.mark.parametrize(("dilated", "branch"), [(True, (2, 2)), (False, (1, 1))], ids=["detection", "segmentation"])
def test_dilation_of_the_offset_branch(dilated: bool, branch: tuple[int, int]) -> None:
    conv = _resnet(1, dilated_offsets=dilated).layer4[2].conv2
    assert (conv.padding, conv.dilation, conv.boundary, conv.offset_groups) == ((2, 2), (2, 2), "v1", 2)
    assert (conv.conv_offset.padding[0], conv.conv_offset.dilation[0]) == branch
    assert conv.bias is None


@pytest.mark.parametrize(("dilated", "stride"), [(True, 16), (False, 32)], ids=["dilated", "pyramid"])
def test_sizes_follow_the_rules_of_the_original(dilated: bool, stride: int) -> None:
    """Pooling rounds up: 90 / 4 is 23 cells (conv1 gives 45), 600 / 16 is 38."""
    with torch.no_grad():
        maps = _resnet(1, c5_dilation=2 if dilated else 1)(torch.zeros(1, 3, 90, 64))
    assert [tuple(m.shape[2:]) for m in maps] == [(22, 16), (11, 8), (6, 4), (6, 4) if stride == 16 else (3, 2)]


@pytest.mark.parametrize("rate", [2, 4, 6, 8])
@pytest.mark.parametrize("dilated", [True, False], ids=["detection", "segmentation"])
def test_atrous_rates_of_the_paper(rate: int, dilated: bool) -> None:
    """Table 3: every 3x3 convolution of the last stage is dilated, and the map keeps its size."""
    backbone = _resnet(1, c5_dilation=rate, dilated_offsets=dilated)
    for block in backbone.layer4:
        assert (block.conv2.padding, block.conv2.dilation) == ((rate, rate), (rate, rate))
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 96))
    assert tuple(maps[3].shape[2:]) == tuple(maps[2].shape[2:])


def test_what_is_trained() -> None:
    trained = {name for name, parameter in _resnet(1).named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if "bn" in name or "downsample.1" in name]
    assert not [name for name in trained if name.startswith(("conv1", "layer1"))]
    assert {"layer2.0.conv1.weight", "layer4.2.conv2.weight", "layer4.2.conv2.conv_offset.bias"} <= trained
