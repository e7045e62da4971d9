"""The layers of InternImage and FlashInternImage, and depthwise convolutions with their branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcn.nn import DCNv3, DCNv4, DeformDepthwiseConv2d, deformify, offset_parameters, undeformify
from tests.ops.cases import close


def _stirred(layer: nn.Module) -> nn.Module:
    """The layer in double precision, its zeros replaced so that everything has a part in the result."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return layer.double()


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "center": {"center_feature_scale": True, "remove_center": True, "dw_kernel_size": 5},
    "dilated": {"kernel_size": 5, "pad": 4, "dilation": 2, "offset_scale": 0.5},
    "one-group": {"group": 1},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_both_layers_keep_the_shape_and_train_every_parameter(name: str) -> None:
    x = torch.randn(2, 5, 7, 12, dtype=torch.float64)
    for layer, output in (
        (v3 := _stirred(DCNv3(12, **{"group": 4, **OPTIONS[name]})), v3(x)),
        (v4 := _stirred(DCNv4(12, **{"group": 4, **OPTIONS[name]})), v4(x.flatten(1, 2), (5, 7)).reshape(x.shape)),
    ):
        assert output.shape == x.shape
        output.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("norm", ["LN", "BN"])
@pytest.mark.parametrize("act", ["GELU", "SiLU", "ReLU"])
def test_norms_and_activations_of_dcnv3(norm: str, act: str) -> None:
    layer = DCNv3(8, norm_layer=norm, act_layer=act)
    assert type(layer.dw_conv[2]).__name__ == act
    assert f"dw_conv.1.{'1' if norm == 'LN' else '0'}.weight" in layer.state_dict()
    assert layer(torch.randn(1, 4, 4, 8)).shape == (1, 4, 4, 8)


def test_a_new_dcnv3_averages_its_regular_neighbours() -> None:
    layer = DCNv3(4, group=2).double()
    x = torch.randn(1, 6, 5, 4, dtype=torch.float64)
    value = layer.input_proj(x).permute(0, 3, 1, 2)
    reference = layer.output_proj(nn.functional.avg_pool2d(value, 3, 1, 1).permute(0, 2, 3, 1))
    close(layer(x), reference, torch.float64)


def test_a_new_dcnv4_gives_the_bias_of_its_projection() -> None:
    layer = DCNv4(8, group=2)
    nn.init.normal_(layer.output_proj.bias)
    output = layer(torch.randn(2, 16, 8))
    close(output, layer.output_proj.bias.detach().expand_as(output), torch.float32)


def test_dcnv4_rounds_its_channels_up_to_a_multiple_of_8() -> None:
    assert DCNv4(12, group=3).offset_mask.out_features == 88
    assert DCNv4(12, group=3, remove_center=True).offset_mask.out_features == 72


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_trains(dtype: torch.dtype) -> None:
    layers = [DCNv3(8, group=2), DCNv4(8, group=2, center_feature_scale=True)]
    inputs = [torch.randn(1, 4, 4, 8), torch.randn(1, 16, 8)]
    for layer, x in zip(layers, inputs, strict=True):
        with torch.autocast("cpu", dtype=dtype):
            output = layer(x)
        output.float().sum().backward()
        assert output.dtype == dtype
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


WRONG: dict[str, dict[str, Any]] = {
    "group": {"group": 5},
    "stride": {"stride": 2},
    "stride, pad": {"pad": 0},
    "dw_kernel_size": {"dw_kernel_size": 4},
    "remove_center": {"kernel_size": 1, "pad": 0, "remove_center": True},
    "channels": {"channels": 0},
    "backend": {"backend": "gpu"},
}


@pytest.mark.parametrize("kind", [DCNv3, DCNv4], ids=["dcnv3", "dcnv4"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_refused_by_name(name: str, kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=f"^{name}.*: expected"):
        kind(**{"channels": 8, "group": 2, **WRONG[name]})


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="padding"):
        DCNv4(8, padding=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("shape", [(1, 8, 4, 4), (1, 15, 8), (1, 16, 7)], ids=["map", "not-square", "channels"])
def test_dcnv4_refuses_maps_that_are_not_flat(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        DCNv4(8, group=2)(torch.zeros(shape))


def test_dcnv3_refuses_channels_first_maps() -> None:
    with pytest.raises(ValueError, match="channels-last"):
        DCNv3(8, group=2)(torch.zeros(1, 8, 4, 4))


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": (3, 2), "stride": (2, 1), "dilation": 2, "bias": False},
    "same": {"kernel_size": (3, 5), "padding": "same", "dilation": (1, 2)},
    "uneven": {"kernel_size": 2, "padding": "same"},
    "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("style", ["dcnv3", "dcnv4"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_deformify_keeps_the_function_of_depthwise_convolutions(name: str, style: str) -> None:
    model = nn.Sequential(nn.Conv2d(6, 6, groups=6, dtype=torch.float64, **CONVOLUTIONS[name]), nn.ReLU())
    weight = model[0].weight
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    before = model(x).detach()
    assert deformify(model, "0", style=style, offset_groups=3) == ["0"]
    assert isinstance(model[0], DeformDepthwiseConv2d)
    assert model[0].weight is weight
    close(model(x), before, torch.float64)
    model(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert list(offset_parameters(model)) == list(model[0].get_submodule("conv_offset").parameters())
    assert undeformify(model) == ["0"]
    close(model(x), before, torch.float64)


@pytest.mark.parametrize("style", ["dcnv3", "dcnv4"])
def test_moved_samples_are_weighted_by_the_convolution_and_the_mask(style: str) -> None:
    """One location by hand: a constant branch moves every tap by (0.5, -1) and gives fixed masks."""
    layer = DeformDepthwiseConv2d(2, 3, offset_groups=1, style=style).double()
    logits = torch.arange(9, dtype=torch.float64) / 4
    with torch.no_grad():
        bias = layer.conv_offset[-1].bias
        assert isinstance(bias, Tensor)
        bias.copy_(torch.cat((torch.tensor([0.5, -1.0]).repeat(9), logits)))
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    mask = 9 * logits.softmax(0) if style == "dcnv3" else 1 + logits
    patch = (x[0, :, 1:4, 0:3] + x[0, :, 2:5, 0:3]) / 2  # of output location (1, 1)
    assert layer.bias is not None
    reference = (layer.weight[:, 0] * mask.reshape(3, 3) * patch).sum((1, 2)) + layer.bias
    close(layer(x)[0, :, 1, 1], reference, torch.float64)


def _model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8))


def test_deformify_refuses_what_is_not_depthwise() -> None:
    model = nn.Sequential(*_model().children())
    with pytest.raises(ValueError, match="can become deformable, got '0': it has 4 input channels, 8 output channels"):
        deformify(model, ["0", "1"], style="dcnv3")
    assert [type(layer) for layer in model] == [nn.Conv2d, nn.Conv2d]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"style": "dcnv5"}, "style: expected one of"), ({"style": "dcnv3", "modulated": True}, "style: expected 'conv'")],
    ids=["unknown", "with-modulated"],
)
def test_deformify_refuses_other_styles(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deformify(_model(), "1", **options)


def test_branches_are_not_made_deformable_in_turn() -> None:
    model = _model()
    deformify(model, "1", style="dcnv3")

    def every(name: str, conv: nn.Conv2d) -> bool:
        return True

    assert deformify(model, every) == ["0"]


def test_layers_compile_as_one_graph() -> None:
    layers: list[tuple[nn.Module, Tensor]] = [(DCNv3(8, group=2), torch.randn(1, 4, 4, 8))]
    layers.append((DeformDepthwiseConv2d(4, 3, padding=1), torch.randn(1, 4, 5, 5)))
    for layer, x in layers:
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        close(compiled(x), layer(x), torch.float32)
