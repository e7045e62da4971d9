from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dcn.models import MODELS
from dcn.models.backbones import AlignedInceptionResNet, AlignedInceptionResNetSpec
from dcn.models.options import make_model
from dcn.nn import DeformConv2d


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_count_is_the_published_one() -> None:
    """64.3 M with the classifier. The paper's own 46.0 M for ResNet-101 are 44.55 M, so it is no exact number."""
    with torch.device("meta"):
        total = _count(AlignedInceptionResNet()) + _count(nn.Linear(2048, 1000))
    assert total == pytest.approx(64.3e6, rel=0.005)


def test_sizes_of_the_stages_are_the_published_ones() -> None:
    with torch.device("meta"):
        maps = AlignedInceptionResNet()(torch.empty(1, 3, 224, 224))
    assert [tuple(c.shape[1:]) for c in maps] == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]


def _positive(**options: Any) -> AlignedInceptionResNet:
    """A network without a negative weight: a gradient is above 0 exactly where a cell looks."""
    network = AlignedInceptionResNet(width=1 / 32, stem_channels=2, frozen_stages=0, **options).double().eval()
    network.maxpool = nn.AvgPool2d(3, 2, 1)  # type: ignore[assignment]  # a maximum would follow one pixel of its window
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    return network


@pytest.mark.parametrize("stage", range(4), ids=["C2", "C3", "C4", "C5"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_cell_looks_at_the_pixels_around_its_place(stage: int, dilation: int) -> None:
    """The field is symmetric about pixel ``stride * cell``, the middle of the picture, in both directions."""
    stride = 4 * 2 ** min(stage, 3 if dilation == 1 else 2)
    image = torch.rand(1, 3, 129, 129, dtype=torch.float64, requires_grad=True)
    result = _positive(c5_dilation=dilation)(image)[stage]
    cell = result.shape[-1] // 2
    assert result.shape[-1] == 128 // stride + 1
    result[0, :, cell, cell].sum().backward()
    assert image.grad is not None
    seen = image.grad[0].sum(0)
    assert stride * cell == 64
    torch.testing.assert_close(seen.flip(0, 1), seen, rtol=1e-9, atol=0.0)
    assert seen[64, 64] > 0


def test_deformable_blocks_have_three_deformable_layers_each() -> None:
    spec = AlignedInceptionResNetSpec(
        width=0.125,
        stem_channels=8,
        c5_dilation=2,
        deform_layers=2,
        offset_groups=4,
        boundary="v1",
        norm="frozen",
    )
    network = spec.build()
    layers = {name: module for name, module in network.named_modules() if isinstance(module, DeformConv2d)}
    assert {name.split(".branches")[0] for name in layers} == {"layer4.1", "layer4.2"}
    assert len(layers) == 6
    assert {(layer.boundary, layer.offset_groups, layer.dilation) for layer in layers.values()} == {("v1", 4, (2, 2))}
    image = torch.rand(1, 3, 64, 64)
    network.train()(image)[3].square().mean().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert reached == {name for name, p in network.named_parameters() if p.requires_grad}
    fixed = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert {name for name in fixed if "layer1" in name} == {n for n, _ in network.named_parameters() if "layer1" in n}
    assert not any(module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize("family", ["rfcn_r101", "rcnn_r101", "rpn_r101", "fpn_r101"])
def test_every_original_detector_takes_it(family: str) -> None:
    with torch.device("meta"):
        network: Any = make_model(MODELS[family], 3, architecture="aligned_inception_resnet")
    assert isinstance(network.backbone, AlignedInceptionResNet)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "vgg"}, "architecture: expected 'resnet' or 'aligned_inception_resnet', got 'vgg'"),
        ({"architecture": "aligned_inception_resnet", "depth": 50}, r"depth, style and pool as they are .* got 50"),
    ],
    ids=["unknown", "depth"],
)
def test_what_does_not_exist_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(MODELS["rfcn_r101"], 3, **options)


def test_a_width_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"width: expected 0.025 or more, got 0.01, which"):
        AlignedInceptionResNetSpec(width=0.01).build()
