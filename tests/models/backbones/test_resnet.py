from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from dcn.models.backbones import ResNet, deformable_positions
from dcn.nn import DeformConv2d

TINY: dict[str, Any] = {"width": 1 / 16, "stem_channels": 4}


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # torchvision's published counts without the classifier (1000 classes on 512 or 2048 features).
        ({"depth": 18}, 11_689_512 - 513_000),
        ({"depth": 34}, 21_797_672 - 513_000),
        ({"depth": 50}, 25_557_032 - 2_049_000),
        ({"depth": 101}, 44_549_160 - 2_049_000),
        ({"depth": 101, "cardinality": (32, 4)}, 44_177_704 - 2_049_000),
    ],
    ids=["r18", "r34", "r50", "r101", "x101"],
)
def test_parameter_count(options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        model = ResNet(**options)
    assert _count(model) == expected


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("style", ["caffe", "pytorch"])
@pytest.mark.parametrize("pool", ["floor", "ceil"])
def test_maps_have_the_strides(depth: int, style: Any, pool: Any) -> None:
    model = ResNet(depth, style=style, pool=pool, **TINY).eval()
    maps = model(torch.randn(2, 3, 64, 96))
    expansion = 4 if depth == 50 else 1
    expected = [(2, 4 * 2**i * expansion, 16 >> i, 24 >> i) for i in range(4)]
    assert [tuple(feature.shape) for feature in maps] == expected


def test_strides_sit_where_the_style_says() -> None:
    caffe: Any = ResNet(50, style="caffe", **TINY).layer2[0]
    pytorch: Any = ResNet(50, style="pytorch", **TINY).layer2[0]
    strides = [[block.conv1.stride, block.conv2.stride] for block in (caffe, pytorch)]
    assert strides == [[(2, 2), (1, 1)], [(1, 1), (2, 2)]]


def test_dilated_stage_five_keeps_stride_16() -> None:
    model: Any = ResNet(50, c5_dilation=2, **TINY).eval()
    _, _, c4, c5 = model(torch.randn(1, 3, 64, 64))
    assert c5.shape[-2:] == c4.shape[-2:]
    assert {(block.conv2.dilation, block.conv2.stride) for block in model.layer4} == {((2, 2), (1, 1))}


def test_deformable_positions() -> None:
    blocks = (3, 4, 6, 3)
    assert deformable_positions((), blocks) == frozenset()
    assert deformable_positions(("c5", "c4.5"), blocks) == {(5, 0), (5, 1), (5, 2), (4, 5)}
    assert len(deformable_positions(("c3", "c4", "c5"), blocks)) == 13


@pytest.mark.parametrize("name", ["c6", "layer4", "c5.3", "c5.x", "5"])
def test_wrong_position(name: str) -> None:
    with pytest.raises(ValueError, match=rf"deform_layers: expected stages c2 to c5 .* got '{name}'"):
        deformable_positions((name,), (3, 4, 6, 3))


def test_deformable_layers_are_where_they_were_asked_for() -> None:
    factory = partial(DeformConv2d, modulated=True, offset_groups=2)
    model: Any = ResNet(50, deform=dict.fromkeys([(3, 0), (5, 2)], factory), **TINY)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, DeformConv2d)}
    assert set(layers) == {"layer2.0.conv2", "layer4.2.conv2"}
    assert model.layer2[0].conv2.conv_offset.weight.shape[0] == 3 * 2 * 9


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_offsets_leave_the_plain_network(depth: int) -> None:
    torch.manual_seed(0)
    plain = ResNet(depth, **TINY).eval()
    positions = deformable_positions(("c3", "c4", "c5"), (2, 2, 2, 2))
    deformable = ResNet(depth, deform=dict.fromkeys(positions, DeformConv2d), **TINY).eval()
    missing, unexpected = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert all(".conv_offset." in name for name in missing)
    assert not unexpected
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(deformable(image), plain(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stages", range(5))
def test_frozen_stages(stages: int) -> None:
    model = ResNet(18, frozen_stages=stages, **TINY)
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    expected = {"conv1", "bn1", *(f"layer{i}" for i in range(1, stages + 1))} if stages else set()
    assert frozen == expected


@pytest.mark.parametrize(
    ("norm", "trains_affine", "updates"),
    [("eval", True, False), ("frozen", False, False), ("train", True, True)],
)
def test_norm_rules(norm: Any, trains_affine: bool, updates: bool) -> None:
    model: Any = ResNet(18, norm=norm, frozen_stages=1, **TINY).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64))
    changed = {name.split(".")[0] for name, b in model.named_buffers() if not torch.equal(b, before[name])}
    assert model.layer2[0].bn1.weight.requires_grad is trains_affine
    assert model.layer2[0].conv1.weight.requires_grad
    assert changed == ({"layer2", "layer3", "layer4"} if updates else set())


def test_ceil_pooling_by_hand() -> None:
    pool = ResNet(18, pool="ceil", **TINY).maxpool
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert pool(x).tolist() == [[[[10, 11], [14, 15]]]]


@pytest.mark.parametrize(
    ("option", "value"),
    [("depth", 20), ("style", "tf"), ("pool", "same"), ("norm", "sync"), ("frozen_stages", 5)],
)
def test_wrong_option(option: str, value: Any) -> None:
    options = {"depth": 18, **TINY, option: value}
    with pytest.raises(ValueError, match=rf"{option}: expected one of .* got {value!r}"):
        ResNet(**options)


def test_groups_need_bottlenecks() -> None:
    with pytest.raises(ValueError, match="ResNet-18 has no bottleneck blocks"):
        ResNet(18, cardinality=(32, 4))
