"""The layers with an offset branch of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dcn.nn import DeformConv1d, DeformConv2d, DeformConv3d, rename_old_keys
from dcn.ops import deform_conv2d


@pytest.mark.parametrize(
    ("layer", "plain", "size"),
    [
        (DeformConv1d, nn.functional.conv1d, (9,)),
        (DeformConv2d, nn.functional.conv2d, (7, 9)),
        (DeformConv3d, nn.functional.conv3d, (5, 6, 7)),
    ],
    ids=["1d", "2d", "3d"],
)
@pytest.mark.parametrize(("modulated", "scale", "start"), [(False, 1.0, 1.0), (True, 1.0, 0.5), (True, 2.0, 1.0)])
def test_starts_as_a_convolution(
    layer: Callable[..., Any],
    plain: Callable[..., torch.Tensor],
    size: tuple[int, ...],
    modulated: bool,
    scale: float,
    start: float,
) -> None:
    made = layer(4, 6, 3, 2, 1, groups=2, offset_groups=2, modulated=modulated, mask_scale=scale)
    x = torch.randn(2, 4, *size)
    expected = plain(x, made.weight * start, made.bias, 2, 1, 1, 2)
    torch.testing.assert_close(made(x), expected, rtol=0, atol=2e-6)


def test_uses_what_the_branch_says() -> None:
    layer = DeformConv2d(4, 3, (3, 2), (2, 1), (1, 0), (2, 1), offset_groups=2, modulated=True, boundary="v1")
    for parameter in layer.conv_offset.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 4, 9, 8)
    predicted = layer.conv_offset(x)
    offset, mask = layer.offsets(x)
    assert mask is not None
    assert torch.equal(offset, predicted[:, :24])
    assert torch.equal(mask, predicted[:, 24:].sigmoid())
    expected = deform_conv2d(x, offset, layer.weight, layer.bias, (2, 1), (1, 0), (2, 1), mask, boundary="v1")
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("bound", ["clamp", "tanh"])
def test_bounded_offsets(bound: str) -> None:
    layer = DeformConv2d(2, 2, 3, padding=1, offset_bound=1.5, bound=bound)
    x = torch.randn(1, 2, 5, 5)
    assert layer.conv_offset.bias is not None
    nn.init.constant_(layer.conv_offset.bias, 100.0)
    offset, _ = layer.offsets(x)
    torch.testing.assert_close(offset, torch.full_like(offset, 1.5))
    nn.init.constant_(layer.conv_offset.bias, 0.01)
    torch.testing.assert_close(layer.offsets(x)[0], torch.full_like(offset, 0.01), rtol=1e-4, atol=0)


def test_offset_branch_of_the_original_deeplab() -> None:
    layer = DeformConv2d(4, 4, 3, padding=2, dilation=2, offset_padding=1, offset_dilation=1)
    assert layer.conv_offset.dilation == (1, 1)
    assert layer.conv_offset.padding == (1, 1)
    x = torch.randn(1, 4, 6, 7)
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, 1, 2, 2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=2e-6)


def test_key_names_and_old_keys() -> None:
    model = nn.Sequential()
    model.add_module("conv2", DeformConv2d(2, 2, 3, bias=False))
    assert set(model.state_dict()) == {"conv2.weight", "conv2.conv_offset.weight", "conv2.conv_offset.bias"}
    old = {"conv2.weight": torch.randn(2, 2, 3, 3), "conv2_offset.weight": torch.randn(18, 2, 3, 3)}
    old["conv2_offset.bias"] = torch.randn(18)
    model.load_state_dict(rename_old_keys(model, old))
    assert set(old) == {"conv2.weight", "conv2_offset.weight", "conv2_offset.bias"}
    loaded = model.state_dict()
    assert torch.equal(loaded["conv2.conv_offset.weight"], old["conv2_offset.weight"])
    assert torch.equal(loaded["conv2.conv_offset.bias"], old["conv2_offset.bias"])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"groups": 3}, "groups"),
        ({"offset_groups": 3}, "offset_groups"),
        ({"stride": 0}, "stride"),
        ({"padding": (1, 1, 1)}, "padding"),
        ({"boundary": "v0"}, "boundary"),
        ({"bound": "relu"}, "bound"),
        ({"offset_bound": 0.0}, "offset_bound"),
        ({"mask_scale": -1.0}, "mask_scale"),
        ({"padding_mode": "mirror"}, "padding_mode"),
        ({"padding": "full"}, "padding"),
        ({"in_channels": 0}, "in_channels"),
        ({"in_channels": None}, "in_channels"),
        ({"out_channels": 2.0}, "out_channels"),
        ({"kernel_size": None}, "kernel_size"),
        ({"groups": 1.0}, "groups"),
        ({"bias": "yes"}, "bias"),
        ({"modulated": None}, "modulated"),
        ({"offset_bound": float("nan")}, "offset_bound"),
        ({"mask_scale": "1"}, "mask_scale"),
        ({"backend": "gpu"}, "backend"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments(arguments: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        DeformConv2d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 3, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(6, 6),
        torch.zeros(1, 3, 6, 6),
        torch.zeros(1, 4, 2, 6),
        torch.zeros(1, 4, 6, 6, dtype=torch.float64),
        torch.zeros(1, 4, 6, 6, dtype=torch.int64),
        [1.0],
    ],
    ids=["axes", "channels", "small", "double", "int", "list"],
)
def test_wrong_inputs(x: object) -> None:
    with pytest.raises(ValueError, match=r"^input: expected .* got "):
        DeformConv2d(4, 4, 3)(x)


def test_repr_names_what_differs() -> None:
    text = repr(DeformConv2d(4, 8, 3, padding=1, modulated=True, bias=False, offset_bound=2.0))
    assert "4, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), modulated=True, offset_bound=2.0" in text
    assert "bias=False" in text


def test_works_under_autocast() -> None:
    layer = DeformConv2d(4, 4, 3, padding=1, modulated=True)
    nn.init.normal_(layer.conv_offset.weight)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(torch.randn(1, 4, 6, 6))
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert layer.conv_offset.weight.grad is not None
    assert layer.conv_offset.weight.grad.isfinite().all()
