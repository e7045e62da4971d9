"""``dcn.compat.dcn_v2`` and ``dcn.compat.detectron2``: argument lists, keys, and the rules of those layers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcn import ops
from dcn.compat import dcn_v2, detectron2

DCN = "in_channels out_channels kernel_size stride padding dilation=1 deformable_groups=1"
POOLING = "spatial_scale pooled_size output_dim no_trans group_size=1 part_size=None sample_per_part=4 trans_std=0.0"
D2 = "in_channels out_channels kernel_size stride=1 padding=0 dilation=1 groups=1 deformable_groups=1"
ARGUMENTS: dict[str, tuple[Any, str]] = {
    "DCN": (dcn_v2.DCN, DCN),
    "DCN_sep": (dcn_v2.DCN_sep, DCN),
    "DCNv2": (dcn_v2.DCNv2, DCN),
    "ModulatedDeformConv": (dcn_v2.ModulatedDeformConv, f"{DCN} no_bias=True"),
    "ModulatedDeformConvPack": (dcn_v2.ModulatedDeformConvPack, f"{DCN} no_bias=False"),
    "DCNv2Pooling": (dcn_v2.DCNv2Pooling, POOLING),
    "DCNPooling": (dcn_v2.DCNPooling, f"{POOLING} deform_fc_dim=1024"),
    "DeformRoIPooling": (dcn_v2.DeformRoIPooling, POOLING),
    "ModulatedDeformRoIPoolingPack": (dcn_v2.ModulatedDeformRoIPoolingPack, f"{POOLING} deform_fc_dim=1024"),
    "dcn_v2_conv": (
        dcn_v2.dcn_v2_conv,
        "input offset mask weight bias stride padding dilation deformable_groups",
    ),
    "dcn_v2_pooling": (dcn_v2.dcn_v2_pooling, f"input rois offset {POOLING}"),
    "detectron2 DeformConv": (detectron2.DeformConv, f"{D2} bias=False norm=None activation=None"),
    "detectron2 ModulatedDeformConv": (detectron2.ModulatedDeformConv, f"{D2} bias=True norm=None activation=None"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    function, expected = ARGUMENTS[name]
    parameters = inspect.signature(function).parameters.values()
    assert [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters] == expected.split()


FC = "{0}.0.weight {0}.0.bias {0}.2.weight {0}.2.bias"
KEYS: dict[str, tuple[Any, str]] = {
    "DCN": (lambda: dcn_v2.DCN(4, 6, 3, 1, 1), "weight bias conv_offset_mask.weight conv_offset_mask.bias"),
    "DCN_sep": (lambda: dcn_v2.DCN_sep(4, 6, 3, 1, 1), "weight bias conv_offset_mask.weight conv_offset_mask.bias"),
    "DCNv2": (lambda: dcn_v2.DCNv2(4, 6, 3, 1, 1), "weight bias"),
    "ModulatedDeformConvPack": (
        lambda: dcn_v2.ModulatedDeformConvPack(4, 6, 3, 1, 1, no_bias=True),
        "weight bias conv_offset_mask.weight conv_offset_mask.bias",
    ),
    "DCNPooling": (
        lambda: dcn_v2.DCNPooling(0.5, 2, 4, False, deform_fc_dim=8),
        f"{FC.format('offset_mask_fc')} offset_mask_fc.4.weight offset_mask_fc.4.bias",
    ),
    "ModulatedDeformRoIPoolingPack": (
        lambda: dcn_v2.ModulatedDeformRoIPoolingPack(0.5, 2, 4, False, deform_fc_dim=8),
        f"{FC.format('offset_fc')} offset_fc.4.weight offset_fc.4.bias {FC.format('mask_fc')}",
    ),
    "detectron2": (
        lambda: detectron2.ModulatedDeformConv(4, 6, 3, norm=nn.GroupNorm(2, 6)),
        "weight bias norm.weight norm.bias",
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_state_dicts_load_strictly(name: str) -> None:
    make, keys = KEYS[name]
    layer = make()
    state = {key: torch.randn_like(value) for key, value in layer.state_dict().items()}
    assert list(state) == keys.split()
    layer.load_state_dict(state, strict=True)
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in state.items())


def _randomised(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.1)
    return layer


def test_dcn_is_the_operator_on_what_its_branch_says() -> None:
    layer = dcn_v2.DCN(4, 6, (3, 3), stride=2, padding=2, dilation=2, deformable_groups=2)
    _randomised(layer)
    layer.conv_offset_mask.padding = (1, 1)  # no dilation: padded by 1 it keeps the size of the layer
    x = torch.randn(2, 4, 9, 8)
    first, second, logits = nn.functional.conv2d(
        x, layer.conv_offset_mask.weight, layer.conv_offset_mask.bias, 2, 1
    ).chunk(3, 1)
    offset = torch.cat((first, second), 1)
    expected = ops.deform_conv2d(x, offset, layer.weight, layer.bias, 2, 2, 2, logits.sigmoid())
    torch.testing.assert_close(layer(x), expected)


def test_dcn_sep_takes_its_offsets_from_the_second_map() -> None:
    layer = dcn_v2.DCN_sep(4, 6, 3, 1, 1, deformable_groups=2)
    nn.init.normal_(layer.conv_offset_mask.weight)
    x, guide = torch.randn(2, 4, 7, 6), torch.randn(2, 4, 7, 6)
    first, second, mask = layer.conv_offset_mask(guide).chunk(3, dim=1)
    expected = ops.deform_conv2d(
        x, torch.cat((first, second), 1), layer.weight, layer.bias, padding=1, mask=mask.sigmoid()
    )
    torch.testing.assert_close(layer(x, guide), expected)


def test_dcn_starts_as_half_a_convolution() -> None:
    layer, x = dcn_v2.DCN(4, 6, 3, 1, 1), torch.randn(2, 4, 6, 7)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, layer.weight, None, 1, 1) / 2)
    assert layer.bias.abs().sum() == 0


def test_no_bias_is_kept_and_not_trained() -> None:
    assert not dcn_v2.ModulatedDeformConv(2, 2, 3, 1, 1).bias.requires_grad
    assert dcn_v2.ModulatedDeformConvPack(2, 2, 3, 1, 1).bias.requires_grad


ROIS = torch.tensor([[0.0, 1, 1, 7, 6], [1, 0, 2, 4, 8], [0, 3, 3, 9, 9]])


def _parts(x: Tensor, offset: Tensor | None) -> Tensor:
    return ops.deform_ps_roi_pool(x, ROIS, offset, 3, 0.5, sample_per_part=2, trans_std=0.1)


@pytest.mark.parametrize("shared_branch", [True, False], ids=["DCNPooling", "ModulatedDeformRoIPoolingPack"])
def test_pooling_is_the_operator_on_what_its_branches_say(shared_branch: bool) -> None:
    x = torch.randn(2, 4, 6, 6)
    make = dcn_v2.DCNPooling if shared_branch else dcn_v2.ModulatedDeformRoIPoolingPack
    layer = make(0.5, 3, 4, False, sample_per_part=2, trans_std=0.1, deform_fc_dim=8)
    _randomised(layer)
    flat = _parts(x, None).flatten(1)
    if isinstance(layer, dcn_v2.DCNPooling):
        predicted = layer.offset_mask_fc(flat).view(3, 3, 3, 3)
        offset, mask = predicted[:, :2], predicted[:, 2:].sigmoid()
    else:
        offset, mask = layer.offset_fc(flat).view(3, 2, 3, 3), layer.mask_fc(flat).view(3, 1, 3, 3)
    torch.testing.assert_close(layer(x, ROIS), _parts(x, offset) * mask)


def test_pooling_without_offsets_and_with_the_callers() -> None:
    x, offset = torch.randn(2, 4, 6, 6), torch.randn(3, 2, 3, 3)
    options: dict[str, Any] = {"sample_per_part": 2, "trans_std": 0.1}
    plain = dcn_v2.DCNv2Pooling(0.5, 3, 4, True, **options)
    torch.testing.assert_close(plain(x, ROIS, offset), _parts(x, None))
    moved = dcn_v2.DeformRoIPooling(0.5, 3, 4, False, **options)
    torch.testing.assert_close(moved(x, ROIS, offset), _parts(x, offset))
    packed = dcn_v2.DCNPooling(0.5, 3, 4, True, **options)
    torch.testing.assert_close(packed(x, ROIS), _parts(x, None))


def test_wrong_pooling_calls_are_refused() -> None:
    layer = dcn_v2.DCNv2Pooling(0.5, 3, 4, False)
    with pytest.raises(AssertionError, match=r"input: expected output_dim \* group_size\*\*2 = 4 channels"):
        layer(torch.zeros(2, 5, 6, 6), ROIS, torch.zeros(3, 2, 3, 3))
    with pytest.raises(ValueError, match=r"offset: expected \[R, 2\*classes, 3, 3\]"):
        layer(torch.zeros(2, 4, 6, 6), ROIS, torch.zeros(3, 2, 2, 3))


@pytest.mark.parametrize("modulated", [False, True])
def test_detectron2_layers_apply_norm_and_activation(modulated: bool) -> None:
    norm = nn.GroupNorm(2, 6)
    x, offset, mask = torch.randn(2, 4, 6, 7), torch.randn(2, 36, 6, 7), torch.rand(2, 18, 6, 7)
    options: dict[str, Any] = {
        "padding": 1,
        "groups": 2,
        "deformable_groups": 2,
        "norm": norm,
        "activation": torch.relu,
    }
    if modulated:
        layer: nn.Module = _randomised(detectron2.ModulatedDeformConv(4, 6, 3, **options))
        plain = ops.deform_conv2d(x, offset, layer.weight, layer.bias, 1, 1, 1, mask)  # type: ignore[arg-type]
        actual = layer(x, offset, mask)
    else:
        layer = _randomised(detectron2.DeformConv(4, 6, 3, **options))
        plain = ops.deform_conv2d(x, offset, layer.weight, None, 1, 1)  # type: ignore[arg-type]
        actual = layer(x, offset)
    torch.testing.assert_close(actual, torch.relu(norm(plain)))
    actual.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_detectron2_deform_conv_has_no_bias() -> None:
    with pytest.raises(AssertionError, match="bias: expected False"):
        detectron2.DeformConv(2, 2, 3, bias=True)
    assert detectron2.DeformConv(2, 2, 3).bias is None
    empty = detectron2.DeformConv(2, 4, 3, padding=1)(torch.zeros(0, 2, 5, 6), torch.zeros(0, 18, 5, 6))
    assert empty.shape == (0, 4, 5, 6)
