"""Offset layouts: the documented channel orders by hand, conversions against each other, and the operator's results."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from dcn.compat import channel_order, convert_offsets, join_packed, split_packed
from dcn.compat.layouts import FRAMEWORKS, LAYOUTS
from dcn.nn import DeformConv2d
from dcn.ops import deform_conv2d

# One letter and one number per channel, for two taps and two groups: axis, group, tap.
CHANNELS = {
    "yx": "y00 x00 y01 x01 y10 x10 y11 x11",
    "xy": "x00 y00 x01 y01 x10 y10 x11 y11",
    "yyxx": "y00 y01 y10 y11 x00 x01 x10 x11",
    "xxyy": "x00 x01 x10 x11 y00 y01 y10 y11",
}
PAIRS = list(itertools.product(LAYOUTS, LAYOUTS))


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=["-".join(p) for p in PAIRS])
def test_every_channel_is_the_documented_one(source: str, target: str) -> None:
    names = CHANNELS[source].split()
    order = channel_order(source, target, taps=2, groups=2)
    assert [names[i] for i in order] == CHANNELS[target].split()


@pytest.mark.parametrize("through", LAYOUTS)
def test_conversions_compose_and_invert(through: str) -> None:
    offset = torch.randn(2, 36, 3, 4)
    for source, target in PAIRS:
        direct = convert_offsets(offset, source, target, groups=2)
        between = convert_offsets(convert_offsets(offset, source, through, groups=2), through, target, groups=2)
        assert torch.equal(direct, between)
        assert torch.equal(convert_offsets(direct, target, source, groups=2), offset)


def test_frameworks_have_the_layouts_of_their_documentation() -> None:
    assert set(CHANNELS) == set(LAYOUTS)
    offset = torch.randn(1, 18, 2, 2)
    for name in ("torchvision", "mmcv", "detectron2", "dcn_v2", "mxnet", "onnx", "paddle"):
        assert torch.equal(convert_offsets(offset, name), offset)
    # MindSpore documents the channels as (offset_x, offset_y, mask).
    actual = convert_offsets(offset, "mindspore")
    assert torch.equal(actual[:, 0::2], offset[:, 9:])
    assert torch.equal(actual[:, 1::2], offset[:, :9])
    assert set(FRAMEWORKS.values()) <= set(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_named_layout_moves_the_image_down(layout: str) -> None:
    """An offset of one pixel in y, written in each layout, samples the row below."""
    x = torch.arange(20.0).reshape(1, 1, 5, 4)
    offset = torch.zeros(1, 8, 4, 3)
    for channel, name in enumerate(_names(layout)):
        offset[:, channel] = name == "y"
    weight = torch.zeros(1, 1, 2, 2)
    weight[..., 0, 0] = 1
    assert torch.equal(deform_conv2d(x, convert_offsets(offset, layout), weight), x[..., 1:, :3])


def _names(layout: str) -> list[str]:
    """The axis of each channel of a 2x2 kernel."""
    return {"yx": ["y", "x"] * 4, "xy": ["x", "y"] * 4, "yyxx": ["y"] * 4 + ["x"] * 4, "xxyy": ["x"] * 4 + ["y"] * 4}[
        layout
    ]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", ["chunk3", "mindspore"])
def test_packed_tensors(layout: str, groups: int) -> None:
    packed = torch.randn(2, 27 * groups, 3, 4)
    offset, mask = split_packed(packed, layout, groups=groups)
    assert torch.equal(join_packed(offset, mask, layout, groups=groups), packed)
    assert torch.equal(mask, packed[:, 18 * groups :])
    if layout == "chunk3":
        first, second, last = packed.chunk(3, 1)
        assert torch.equal(offset, torch.cat((first, second), 1))
        assert torch.equal(mask, last)
    else:
        x, y = packed[:, : 9 * groups], packed[:, 9 * groups : 18 * groups]
        assert torch.equal(offset, torch.stack((y, x), 2).flatten(1, 2))


def test_a_branch_trained_in_another_layout() -> None:
    """The branch of an all-y-then-all-x port gives the same layer when its parameters are turned."""
    layer = DeformConv2d(3, 2, 3, padding=1)
    foreign = nn.Conv2d(3, 18, 3, padding=1)
    x = torch.randn(1, 3, 6, 5)
    weight, bias = foreign.weight, foreign.bias
    assert bias is not None
    state = {
        "weight": convert_offsets(weight.detach(), "yyxx", dim=0),
        "bias": convert_offsets(bias.detach(), "yyxx", dim=0),
    }
    layer.conv_offset.load_state_dict(state)
    expected = deform_conv2d(x, _interleaved(foreign(x)), layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)


def _interleaved(offset: Tensor) -> Tensor:
    return torch.stack((offset[:, :9], offset[:, 9:]), 2).flatten(1, 2)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="source: expected one of"):
        convert_offsets(torch.zeros(1, 18, 1, 1), "yxyx")
    with pytest.raises(ValueError, match=r"multiple of 2\*groups=4 channels in axis 1, got 18"):
        convert_offsets(torch.zeros(1, 18, 1, 1), "xy", groups=2)
    with pytest.raises(ValueError, match=r"multiple of 3\*groups=3 channels in axis 0, got 10"):
        split_packed(torch.zeros(10, 3), dim=0)
    with pytest.raises(ValueError, match="layout: expected one of"):
        split_packed(torch.zeros(1, 27, 1, 1), "yx")
    with pytest.raises(ValueError, match="mask: expected 9 channels"):
        join_packed(torch.zeros(1, 18, 1, 1), torch.zeros(1, 18, 1, 1))
