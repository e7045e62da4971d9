"""``convert``: look-alikes of other libraries' layers (their attributes and keys, the reference for the arithmetic)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcn import ops
from dcn.compat import convert


def _look_alike(name: str, module: str, attributes: dict[str, Any], forward: Any) -> nn.Module:
    """An instance of a class called ``name`` as if defined in ``module``."""
    kind = type(name, (nn.Module,), {"forward": forward, "__module__": module})
    layer: nn.Module = kind()
    for key, value in attributes.items():
        if isinstance(value, nn.Module | nn.Parameter):
            setattr(layer, key, value)
        else:
            object.__setattr__(layer, key, value)
    return layer


def _reference(layer: Any, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
    bias = getattr(layer, "bias", None)
    geometry = (layer.stride, layer.padding, layer.dilation)
    return ops.deform_conv2d(x, offset, layer.weight, bias, *geometry, mask, backend="reference")


def _packed(layer: Any, x: Tensor) -> Tensor:
    branch = layer.conv_offset_mask if hasattr(layer, "conv_offset_mask") else layer.conv_offset
    first, second, logits = branch(x).chunk(3, 1)
    return _reference(layer, x, torch.cat((first, second), 1), logits.sigmoid())


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.2)


def _geometry(groups: int = 1, **more: Any) -> dict[str, Any]:
    base = {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 3), "groups": groups}
    return (
        base | {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "weight": _weight(6, 4 // groups, 3, 3)} | more
    )


def _mmcv_pack(**more: Any) -> nn.Module:
    attributes = _geometry(2, deform_groups=2, conv_offset=nn.Conv2d(4, 36, 3, padding=1), **more)
    return _look_alike(
        "DeformConv2dPack", "mmcv.ops.deform_conv", attributes, lambda s, x: _reference(s, x, s.conv_offset(x))
    )


def _mmcv_modulated() -> nn.Module:
    attributes = _geometry(deform_groups=1, bias=_weight(6), conv_offset=nn.Conv2d(4, 27, 3, padding=1))
    return _look_alike("ModulatedDeformConv2dPack", "mmcv.ops.modulated_deform_conv", attributes, _packed)


def _old_modulated() -> nn.Module:
    """mmdetection 1.x: whole numbers for the geometry, other names."""
    attributes = _geometry(deformable_groups=1, bias=None, conv_offset=nn.Conv2d(4, 27, 3, padding=1))
    attributes |= {"stride": 1, "padding": 1, "dilation": 1}
    return _look_alike("ModulatedDeformConvPack", "mmdet.ops.dcn.deform_conv", attributes, _packed)


def _dcn() -> nn.Module:
    attributes = _geometry(deformable_groups=1, bias=_weight(6), conv_offset_mask=nn.Conv2d(4, 27, 3, padding=1))
    del attributes["groups"]
    return _look_alike("DCN", "models.DCNv2.dcn_v2", attributes, _packed)


class _Fed(nn.Module):
    """Gives a layer its offsets and mask."""

    def __init__(self, layer: nn.Module, mask: bool) -> None:
        super().__init__()
        self.layer = layer
        self.offset, self.mask = nn.Parameter(torch.randn(2, 18, 5, 6)), nn.Parameter(torch.rand(2, 9, 5, 6))
        self.masked = mask

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.offset, self.mask) if self.masked else self.layer(x, self.offset)


def _torchvision() -> nn.Module:
    attributes = _geometry(bias=_weight(6))
    return _Fed(_look_alike("DeformConv2d", "torchvision.ops.deform_conv", attributes, _reference), mask=True)


def _detectron2() -> nn.Module:
    attributes = _geometry(deformable_groups=1, bias=_weight(6), norm=nn.GroupNorm(2, 6), activation=torch.relu)
    layer = _look_alike(
        "ModulatedDeformConv",
        "detectron2.layers.deform_conv",
        attributes,
        lambda s, x, offset, mask: s.activation(s.norm(_reference(s, x, offset, mask))),
    )
    return _Fed(layer, mask=True)


class _Guided(nn.Module):
    """Gives a layer a second map."""

    def __init__(self) -> None:
        super().__init__()
        attributes = _geometry(deformable_groups=1, bias=_weight(6), conv_offset_mask=nn.Conv2d(4, 27, 3, padding=1))
        del attributes["groups"]

        def forward(layer: Any, x: Tensor, fea: Tensor) -> Tensor:
            first, second, mask = layer.conv_offset_mask(fea).chunk(3, dim=1)
            return _reference(layer, x, torch.cat((first, second), 1), mask.sigmoid())

        self.layer = _look_alike("DCN_sep", "models.modules.DCNv2.dcn_v2", attributes, forward)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x, x.flip(3))
        return result


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "Zooming Slow-Mo": (_Guided, "dcn.compat.dcn_v2.DCN_sep"),
    "mmcv pack": (_mmcv_pack, "dcn.compat.mmcv.DeformConv2dPack"),
    "mmcv modulated pack": (_mmcv_modulated, "dcn.compat.mmcv.ModulatedDeformConv2dPack"),
    "mmdetection 1": (_old_modulated, "dcn.compat.basicsr.ModulatedDeformConvPack"),
    "DCNv2 fork": (_dcn, "dcn.compat.dcn_v2.DCN"),
    "torchvision": (_torchvision, "dcn.compat.torchvision.DeformConv2d"),
    "detectron2": (_detectron2, "dcn.compat.detectron2.ModulatedDeformConv"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_network_computes_the_same_with_the_same_parameters(name: str) -> None:
    make, kind = MODELS[name]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), make(), nn.ReLU())
    x = torch.randn(2, 3, 5, 6)
    before, state = model(x), dict(model.state_dict(keep_vars=True))
    model.eval()
    result = convert(model)
    assert [entry[2] for entry in result.changed] == [kind]
    assert result.skipped == ()
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(state)
    assert all(after[key] is state[key] for key in state)
    assert not any(module.training for module in model.modules())
    assert not any(value.is_meta for value in after.values())


def _pool(name: str, module: str, **attributes: Any) -> nn.Module:
    return nn.Sequential(_look_alike(name, module, attributes, lambda *_: None))


POOLS: dict[str, tuple[nn.Module, str]] = {
    "mmcv RoIAlign": (
        _pool(
            "RoIAlign",
            "mmcv.ops",
            output_size=(2, 2),
            spatial_scale=0.5,
            sampling_ratio=0,
            pool_mode="avg",
            aligned=True,
        ),
        "dcn.compat._mmcv_roi.RoIAlign",
    ),
    "torchvision RoIAlign": (
        _pool("RoIAlign", "torchvision.ops", output_size=2, spatial_scale=0.5, sampling_ratio=2, aligned=False),
        "dcn.compat.torchvision.RoIAlign",
    ),
    "detectron2 ROIAlign": (
        _pool("ROIAlign", "detectron2.layers", output_size=2, spatial_scale=0.5, sampling_ratio=0, aligned=True),
        "dcn.compat.torchvision.RoIAlign",
    ),
    "mmcv RoIPool": (
        _pool("RoIPool", "mmcv.ops", output_size=(2, 2), spatial_scale=0.5),
        "dcn.compat._mmcv_roi.RoIPool",
    ),
    "torchvision RoIPool": (
        _pool("RoIPool", "torchvision.ops", output_size=2, spatial_scale=0.5),
        "dcn.compat.torchvision.RoIPool",
    ),
    "DCNv2Pooling": (
        _pool(
            "DCNv2Pooling",
            "dcn_v2",
            **{"spatial_scale": 0.5, "pooled_size": 2, "output_dim": 4, "no_trans": True, "group_size": 1},
            **{"part_size": 2, "sample_per_part": 4, "trans_std": 0.0},
        ),
        "dcn.compat.dcn_v2.DCNv2Pooling",
    ),
}


@pytest.mark.parametrize("name", POOLS)
def test_poolings(name: str) -> None:
    model, kind = POOLS[name]
    old = vars(model[0]).copy()  # type: ignore[index]
    result = convert(model)
    assert [entry[2] for entry in result.changed] == [kind]
    new = model[0]  # type: ignore[index]
    fields = [key for key in ("output_size", "spatial_scale", "sampling_ratio", "aligned", "trans_std") if key in old]
    assert [getattr(new, key) for key in fields] == [old[key] for key in fields]


@pytest.mark.parametrize("kind", ["DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"])
def test_deformable_pooling_keeps_its_branches(kind: str) -> None:
    from dcn.compat import mmcv

    own = getattr(mmcv, kind)(2, 4, 8, 0.5, 2)
    branches = dict(own.named_children())
    fields = {key: getattr(own, key) for key in ("output_size", "spatial_scale", "sampling_ratio", "gamma")}
    old = _look_alike(kind, "mmcv.ops", fields | {"output_channels": 4} | branches, lambda *_: None)
    model = nn.Sequential(old)
    assert len(convert(model).changed) == 1
    assert dict(model[0].named_children()) == branches
    rois = torch.tensor([[0.0, 1, 1, 7, 6]])
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(model[0](x, rois), own(x, rois))


def test_a_shared_layer_stays_shared_and_keeps_its_hooks() -> None:
    layer, calls = _dcn(), []
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)})
    result = convert(model)
    assert [entry[0] for entry in result.changed] == ["a"]
    assert model["a"] is model["b"][0]  # type: ignore[index]
    model["a"](torch.randn(1, 4, 5, 6))
    handle.remove()
    model["a"](torch.randn(1, 4, 5, 6))
    assert calls == [1]


def _foreign(name: str, **attributes: Any) -> nn.Module:
    return _look_alike(name, "elsewhere.layers", attributes, lambda s, x: x)


SKIPPED: dict[str, tuple[nn.Module, str]] = {
    "unknown class": (
        _foreign("FancyDeformAttention", weight=_weight(2)),
        "there is no drop-in for a class of this name",
    ),
    "no weight": (_foreign("DeformConv2d"), "it has no attribute weight"),
    "volumes": (
        _foreign("DeformConv", weight=_weight(2, 2, 3, 3, 3)),
        "expected a weight [O, C/groups, kh, kw], got [2, 2, 3, 3, 3]",
    ),
    "other keys": (
        _foreign("DCNv2", **_geometry(deformable_groups=1, bias=_weight(6), offset_conv=nn.Conv2d(4, 18, 3))),
        "expected the state dict",
    ),
    "two rules": (
        _foreign("RoIPool", output_size=2, spatial_scale=1.0),
        "expected a class of torchvision or mmcv, whose rules differ",
    ),
    "second input": (
        _foreign("ModulatedDeformConvPack", **_geometry(extra_offset_mask=True)),
        "it predicts its offsets from a second input",
    ),
    "pool mode": (
        _pool("RoIPool", "fork", output_size=2, spatial_scale=1.0)[0],  # type: ignore[index]
        "got one of fork",
    ),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_what_cannot_be_changed_is_named_with_the_reason(name: str) -> None:
    layer, reason = SKIPPED[name]
    model = nn.Sequential(layer)
    result = convert(model)
    assert result.changed == ()
    assert [entry[:2] for entry in result.skipped] == [("0", type(layer).__name__)]
    assert reason in result.skipped[0][2]
    assert model[0] is layer
    assert str(result).startswith(f"skipped 0: {type(layer).__name__}: ")


def test_a_replaced_forward_stays() -> None:
    layer = _dcn()
    layer.forward = lambda x: x
    assert convert(nn.Sequential(layer)).skipped[0][2] == "its forward was replaced"


def test_containers_with_deformable_names_are_looked_into() -> None:
    container = type("DeformableNet", (nn.Sequential,), {"__module__": "elsewhere"})(_dcn(), nn.ReLU())
    result = convert(nn.Sequential(container))
    assert [entry[0] for entry in result.changed] == ["0.0"]
    assert result.skipped == ()
    assert str(result) == "changed 0.0: DCN -> dcn.compat.dcn_v2.DCN"


def test_own_layers_and_plain_networks_are_left_alone() -> None:
    from dcn.nn import DeformConv2d

    model = nn.Sequential(DeformConv2d(2, 2, 3), nn.Conv2d(2, 2, 1))
    assert str(convert(model)) == "nothing to change"
    assert convert(model).changed == ()


def test_the_layer_itself_has_no_holder() -> None:
    with pytest.raises(ValueError, match="expected a module that contains layers, got a DCN"):
        convert(_dcn())
    with pytest.raises(ValueError, match="model: expected a torch"):
        convert("model")  # type: ignore[arg-type]
