"""Layers of transposed deformable convolution: start, sizes, keys, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dcn.nn import DeformConvTranspose1d, DeformConvTranspose2d, DeformConvTranspose3d

Layer = Callable[..., nn.Module]
PAIRS = {
    1: (DeformConvTranspose1d, nn.ConvTranspose1d, (9,)),
    2: (DeformConvTranspose2d, nn.ConvTranspose2d, (5, 6)),
    3: (DeformConvTranspose3d, nn.ConvTranspose3d, (3, 4, 3)),
}


@pytest.mark.parametrize("modulated", [False, True], ids=["plain", "modulated"])
@pytest.mark.parametrize("n", PAIRS)
def test_starts_as_the_ordinary_layer(n: int, modulated: bool) -> None:
    ours, plain, size = PAIRS[n]
    torch.manual_seed(0)
    layer = ours(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, modulated=modulated)
    other = plain(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    other.load_state_dict({name: layer.state_dict()[name] for name in ("weight", "bias")})
    x = torch.randn(2, 4, *size)
    torch.testing.assert_close(layer(x), other(x))


@pytest.mark.parametrize("modulated", [False, True], ids=["plain", "modulated"])
def test_every_parameter_learns(modulated: bool) -> None:
    torch.manual_seed(0)
    layer = DeformConvTranspose2d(4, 6, (2, 3), stride=2, offset_groups=3, modulated=modulated)
    layer(torch.randn(2, 4, 5, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    assert layer.conv_offset.weight.shape[0] == (3 if modulated else 2) * 3 * 6


@pytest.mark.parametrize("size", [(11, 13), (12, 14)], ids=str)
def test_output_size(size: tuple[int, int]) -> None:
    layer = DeformConvTranspose2d(3, 4, 3, stride=2)
    assert layer(torch.randn(1, 3, 5, 6), output_size=size).shape[2:] == size


def test_output_size_out_of_reach_names_the_range() -> None:
    with pytest.raises(ValueError, match=r"output_size: expected from \[11, 13\] to \[12, 14\], got \[13, 14\]"):
        DeformConvTranspose2d(3, 4, 3, stride=2)(torch.randn(1, 3, 5, 6), output_size=(13, 14))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "groups: expected a divisor"),
        ({"offset_groups": 4}, "offset_groups: expected a divisor of out_channels=6"),
        ({"offset_kernel_size": 2}, "offset_kernel_size: expected an odd number"),
        ({"bias": 1}, "bias: expected True or False"),
        ({"mask_scale": 0.0}, "mask_scale: expected"),
        ({"backend": "none"}, "backend: expected"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refusals(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeformConvTranspose2d(4, 6, 3, **change)  # type: ignore[arg-type]


def test_wrong_channels() -> None:
    with pytest.raises(ValueError, match="input: expected 4 channels"):
        DeformConvTranspose2d(4, 6, 3)(torch.randn(1, 5, 4, 4))


def test_printed_with_what_differs() -> None:
    text = repr(DeformConvTranspose2d(4, 6, 3, stride=2, output_padding=1, modulated=True, bias=False))
    assert "output_padding=(1, 1)" in text
    assert "modulated=True" in text
    assert "bias=False" in text
    assert "groups" not in text.split("(conv_offset)")[0]
