from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcn.models import MODELS, build
from dcn.models.backbones import ORIGINAL_BACKBONE, AlignedInceptionResNetSpec, ResNetSpec, make_backbone
from dcn.models.backbones.specs import DeformLayers, last_layers
from dcn.models.options import flat_options, make_model
from dcn.nn import DeformConv2d


def _resnet(layers: DeformLayers, **options: Any) -> Any:
    options = {"width": 1 / 16, "stem_channels": 8, "offset_groups": 2} | options
    return replace(ORIGINAL_BACKBONE, deform_layers=layers, **options).build()


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


class _Own(nn.Module):
    """A backbone of a user: four maps of strides 4 to 32."""

    def __init__(self, channels: list[int], out_channels: Any = None) -> None:
        super().__init__()
        sizes = [3, *channels]
        self.stem = nn.MaxPool2d(2)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(sizes, channels, strict=False))
        self.out_channels = channels if out_channels is None else out_channels

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


_HEADS: dict[str, Any] = {"fpn_channels": 16, "fc_channels": 32}


def test_a_backbone_of_ones_own_trains_and_detects() -> None:
    model: Any = build("faster_rcnn_r50_fpn", ["a", "b"], backbone=_Own([8, 12, 16, 20]), **_HEADS)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert [conv.conv.weight.shape[1] for conv in model.neck.lateral_convs] == [8, 12, 16, 20]
    assert len(model.eval()([image])) == 1
    assert model.training is False


def test_a_spec_is_taken_by_every_builder() -> None:
    spec = ResNetSpec(depth=18, width=0.125, stem_channels=8)
    assert make_backbone(spec, (4, 8, 16, 32), exactly=True)[1] == [8, 16, 32, 64]
    model: Any = build("rfcn_r101", ["a"], backbone=replace(spec, c5_dilation=2), head_channels=8, rpn_channels=8)
    assert (model.backbone.depth, model.backbone.style, model.backbone.norm) == (18, "pytorch", "eval")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            _Own([8, 12, 16, 20], [8, 12, 16, 24]),
            r"expected maps of \[8, 12, 16, 24\] channels .* got \[8, 12, 16, 20\] from _Own",
        ),
        (_Own([8, 12, 16]), r"expected maps of stride 4, 8, 16, 32, got 4, 8, 16;"),
        (_Own([8, 12, 16, 20], "none"), "expected an attribute `out_channels`.* on _Own, got 'none'"),
        (nn.Conv2d(3, 8, 1), "expected an attribute .* on Conv2d, got 8"),
        (
            ResNetSpec(depth=18, width=0.125, c5_dilation=2),
            "expected maps of stride 4, 8, 16, 32, got 4, 8, 16, 16; c5_",
        ),
        ("resnet50", "expected a spec such as ResNetSpec.* got 'resnet50'"),
    ],
    ids=["channels", "too-few", "no-list", "a-layer", "strides", "text"],
)
def test_backbones_that_do_not_fit(backbone: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"backbone: {message}"):
        build("faster_rcnn_r50_fpn", ["a"], backbone=backbone, **_HEADS)


def test_what_returns_no_maps_is_named() -> None:
    class Wrong(_Own):
        def forward(self, x: Tensor) -> Any:
            return {"maps": super().forward(x)}

    with pytest.raises(ValueError, match=r"a list of maps \[N, C, H, W\] from Wrong, got dict"):
        make_backbone(Wrong([8, 12, 16, 20]).train(), (4, 8, 16, 32))


def test_a_measured_backbone_keeps_its_mode_and_statistics() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out_channels = backbone, [4]

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.inner(x)]

    module, channels = make_backbone(Wrapped().train(), (2,))
    assert (module.training, channels) == (True, [4])
    assert backbone[1].running_mean.eq(0).all()  # type: ignore[operator]  # nn.Module attributes are untyped


# Options of weights files that were written before builders took specs, and what they mean.
OLD_OPTIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "pyramid": ("faster_rcnn_r50_fpn", {"deform_stages": ["c5"], "modulated": True}, {"deform_layers": ("c5",)}),
    "original": ("rfcn_r101", {"depth": 50, "deform_layers": 2, "offset_groups": 2}, {"deform_layers": 2, "depth": 50}),
    "architecture": ("rfcn_r101", {"architecture": "resnet"}, {"style": "caffe"}),
    "aligned": ("rcnn_r101", {"architecture": "aligned_inception_resnet", "depth": 101}, {"c5_dilation": 2}),
}


def _spec_of(name: str) -> Any:
    """The spec that the builder of a model starts from."""
    return inspect.signature(MODELS[name]).parameters["backbone"].default


@pytest.mark.parametrize("key", OLD_OPTIONS)
def test_flat_options_become_a_spec(key: str) -> None:
    name, options, expected = OLD_OPTIONS[key]
    spec, seen = _spec_of(name), []

    def builder(num_classes: int, *, backbone: Any = spec, deform_pool: bool = False) -> nn.Module:
        seen.append(backbone)
        return nn.Identity()

    make_model(builder, 3, **options)
    assert {field: getattr(seen[0], field) for field in expected} == expected
    assert isinstance(seen[0], AlignedInceptionResNetSpec) == (key == "aligned")


@pytest.mark.parametrize("name", MODELS)
def test_options_of_a_backbone_stand_among_those_of_the_model(name: str) -> None:
    options = flat_options(MODELS[name])
    assert {"width", "stem_channels", "norm", "frozen_stages", "deform_layers", "preprocess", "test_size"} <= set(
        options
    )
    assert "backbone" not in options
    assert ("depth" in options) == ("aligned" not in name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": ResNetSpec(), "depth": 18}, "expected an option of the model, got 'depth'.*belong into its spec"),
        ({"deform_layers": "c5"}, r"got the text 'c5'; write \['c5'\]"),
        ({"deform_layers": 1.5}, "expected a number or a list of stages and blocks, got 1.5"),
        (
            {"groups": 32, "base_width": 4, "width": 0.125},
            r"width: expected 0.25 or more .* got 0.125, which leaves no channels",
        ),
        ({"width": 0.001}, "width: expected 0.015625 or more .* got 0.001, which"),
        ({"c5_dilation": 2}, "expected maps of stride 4, 8, 16, 32"),
    ],
    ids=["both", "text", "number", "groups", "width", "dilated"],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("faster_rcnn_r50_fpn", ["a"], **options)
