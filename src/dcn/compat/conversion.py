"""Swap the deformable layers of other libraries in a network that is already built, by the names of their classes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcn.compat import basicsr, dcn_v2, dcnv3, dcnv4, detectron2, mmcv, torchvision
from dcn.compat.ms_deform_attn import MSDeformAttn
from dcn.nn.convert import replace_module, take_hooks
from dcn.nn.deform_conv import check_module

Builder = Callable[[nn.Module], nn.Module]
Swap = tuple[str, str, str]


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert` did.

    Attributes:
        changed: name of the layer in the model, its old class, its new class.
        skipped: name of the layer, its class, and why it stayed.
    """

    changed: tuple[Swap, ...]
    skipped: tuple[Swap, ...]

    def __str__(self) -> str:
        lines = [f"changed {name}: {old} -> {new}" for name, old, new in self.changed]
        lines += [f"skipped {name}: {old}: {reason}" for name, old, reason in self.skipped]
        return "\n".join(lines) or "nothing to change"


class _Unfit(Exception):
    """Why a layer cannot be swapped."""


def _get(old: nn.Module, *names: str, default: Any = None) -> Any:
    """The first attribute that ``old`` has."""
    for name in names:
        if hasattr(old, name):
            return getattr(old, name)
    if default is None:
        raise _Unfit(f"it has no attribute {' or '.join(names)}")
    return default


def _conv(make: Callable[..., nn.Module], groups: str | None = None, **options: Any) -> Builder:
    """A builder for convolutions: shapes from the weight, geometry from the attributes."""

    def build(old: nn.Module) -> nn.Module:
        """The layer of this package in place of ``old``."""
        if getattr(old, "extra_offset_mask", False):
            raise _Unfit("it predicts its offsets from a second input (extra_offset_mask)")
        weight: Any = _get(old, "weight")
        if not isinstance(weight, Tensor) or weight.ndim != 4:
            shape = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise _Unfit(f"expected a weight [O, C/groups, kh, kw], got {shape}")
        size = {"kernel_size": tuple(weight.shape[2:]), "out_channels": weight.shape[0]}
        number = _get(old, "groups", default=1)
        geometry = {name: _get(old, name) for name in ("stride", "padding", "dilation")}
        extra: dict[str, Any] = {}
        if groups is not None:
            extra[groups] = _get(old, "deform_groups", "deformable_groups", default=1)
        if make not in (dcn_v2.DCN, dcn_v2.DCN_sep, dcn_v2.DCNv2):
            extra["groups"] = number
        elif number != 1:
            raise _Unfit(f"expected groups=1, got {number}")
        if "bias" in options:
            extra["bias"] = getattr(old, "bias", None) is not None
        return make(weight.shape[1] * number, **size, **geometry, **extra)

    return build


def _detectron2(make: Callable[..., nn.Module]) -> Builder:
    inner = (
        _conv(make, "deformable_groups", bias=True)
        if make is detectron2.ModulatedDeformConv
        else _conv(make, "deformable_groups")
    )

    def build(old: nn.Module) -> nn.Module:
        """The layer of this package in place of ``old``."""
        new = inner(old)
        vars(new)["activation"] = vars(old).get("activation")  # a module is taken over with the branches
        return new

    return build


def _plain(make: Callable[..., nn.Module], *fields: str) -> Builder:
    """A builder that hands over attributes under their own names."""
    return lambda old: make(**{name: _get(old, name) for name in fields})


def _pool_pack(make: Callable[..., nn.Module], *fields: str) -> Builder:
    """The same for RoI pooling with a branch, whose hidden width may be stored or must be read off the branch."""

    def build(old: nn.Module) -> nn.Module:
        """The layer of this package in place of ``old``."""
        first: Any = _get(old, "offset_fc")[0]
        arguments = {name: _get(old, name) for name in fields}
        return make(**arguments, deform_fc_channels=first.out_features)

    return build


def _dcn_pooling(make: Callable[..., nn.Module], branch: str) -> Builder:
    def build(old: nn.Module) -> nn.Module:
        """The layer of this package in place of ``old``."""
        arguments = {name: _get(old, name) for name in _DCN_POOLING}
        if not arguments["no_trans"]:
            first: Any = _get(old, branch)[0]
            arguments["deform_fc_dim"] = first.out_features
        return make(**arguments)

    return build


def _dcnv3(old: nn.Module) -> nn.Module:
    """InternImage's module: the activation comes with the branch, the norm is told by its keys."""
    norm = "BN" if "dw_conv.1.0.weight" in old.state_dict() else "LN"
    return dcnv3.DCNv3(norm_layer=norm, **{name: _get(old, name, default=usual) for name, usual in _DCNV3.items()})


def _dcnv4(old: nn.Module) -> nn.Module:
    without = bool(_get(old, "without_pointwise", default=False))
    bias = without or "output_proj.bias" in old.state_dict()
    depthwise = getattr(old, "dw_kernel_size", None)
    fields = {name: _get(old, name, default=usual) for name, usual in _DCNV4.items()}
    return dcnv4.DCNv4(dw_kernel_size=depthwise, output_bias=bias, without_pointwise=without, **fields)


def _has(name: str, yes: Builder, no: Builder) -> Builder:
    """One class name, two libraries: what tells them apart is an attribute."""
    return lambda old: (yes if hasattr(old, name) else no)(old)


def _roi_pool(old: nn.Module) -> nn.Module:
    library = type(old).__module__.split(".")[0]
    if library not in ("torchvision", "mmcv"):
        raise _Unfit(
            f"expected a class of torchvision or mmcv, whose rules differ, got one of {library}: swap it by hand"
        )
    return _plain(torchvision.RoIPool if library == "torchvision" else mmcv.RoIPool, *_ROI)(old)


def _attention(old: nn.Module) -> nn.Module:
    """mmcv's layer; transformers' of the same name has no parameters, other copies name their arguments otherwise."""
    if not old.state_dict():
        raise _Unfit("it only samples; dcn.compat.transformers.install() serves it")
    inner: Any = _get(old, "value_proj")
    sizes = {name: _get(old, name) for name in ("embed_dims", "num_heads", "num_levels", "num_points", "batch_first")}
    return mmcv.MultiScaleDeformableAttention(**sizes, value_proj_ratio=inner.out_features / sizes["embed_dims"])


_ROI = ("output_size", "spatial_scale")
_DPOOL = (*_ROI, "sampling_ratio", "gamma")
# Attributes and what a module of an older version, which lacks one, means by that; None: every version has it.
_DCNV4: dict[str, Any] = {
    **dict.fromkeys(("channels", "kernel_size", "stride", "pad", "dilation", "group", "offset_scale")),
    **dict.fromkeys(("center_feature_scale", "remove_center"), False),
}
_DCNV3: dict[str, Any] = {**_DCNV4, "dw_kernel_size": None}
_DCN_POOLING = (
    *("spatial_scale", "pooled_size", "output_dim", "no_trans"),
    *("group_size", "part_size", "sample_per_part", "trans_std"),
)
_MMCV_PACK = _conv(mmcv.DeformConv2dPack, "deform_groups")
_MMCV_MODULATED = _conv(mmcv.ModulatedDeformConv2d, "deform_groups", bias=True)
_MMCV_MODULATED_PACK = _conv(mmcv.ModulatedDeformConv2dPack, "deform_groups", bias=True)
_BASICSR_MODULATED = _conv(basicsr.ModulatedDeformConv, "deformable_groups", bias=True)
_BASICSR_PACK = _conv(basicsr.ModulatedDeformConvPack, "deformable_groups", bias=True)
_DCN = _conv(dcn_v2.DCN, "deformable_groups")
_DCN_V2 = _conv(dcn_v2.DCNv2, "deformable_groups")
_D2, _D2_MODULATED = _detectron2(detectron2.DeformConv), _detectron2(detectron2.ModulatedDeformConv)

RULES: dict[str, Builder] = {
    "DeformConv2d": _has(
        "deform_groups", _conv(mmcv.DeformConv2d, "deform_groups"), _conv(torchvision.DeformConv2d, bias=True)
    ),
    "DeformConv2dPack": _MMCV_PACK,
    "ModulatedDeformConv2d": _MMCV_MODULATED,
    "ModulatedDeformConv2dPack": _MMCV_MODULATED_PACK,
    # mmdetection 1.x and the BasicSR family; chengdazhi's branch is called conv_offset_mask.
    "DeformConvPack": _conv(basicsr.DeformConvPack, "deformable_groups"),
    "ModulatedDeformConvPack": _has("conv_offset_mask", _DCN, _BASICSR_PACK),
    "DeformConv": _has("norm", _D2, _conv(basicsr.DeformConv, "deformable_groups")),
    "ModulatedDeformConv": _has("norm", _D2_MODULATED, _BASICSR_MODULATED),
    "DCN": _has("conv_offset_mask", _DCN, _MMCV_PACK),
    "DCN_sep": _conv(dcn_v2.DCN_sep, "deformable_groups"),
    "DCNv2": _DCN_V2,
    "DCNv3": _dcnv3,
    "DCNv3_pytorch": _dcnv3,
    "DCNv4": _dcnv4,
    "RoIAlign": _has(
        "pool_mode",
        _plain(mmcv.RoIAlign, *_ROI, "sampling_ratio", "pool_mode", "aligned"),
        _plain(torchvision.RoIAlign, *_ROI, "sampling_ratio", "aligned"),
    ),
    "ROIAlign": _plain(torchvision.RoIAlign, *_ROI, "sampling_ratio", "aligned"),
    "RoIPool": _roi_pool,
    "PSRoIAlign": _plain(torchvision.PSRoIAlign, *_ROI, "sampling_ratio"),
    "PSRoIPool": _plain(torchvision.PSRoIPool, *_ROI),
    "DeformRoIPool": _plain(mmcv.DeformRoIPool, *_DPOOL),
    "DeformRoIPoolPack": _pool_pack(mmcv.DeformRoIPoolPack, *_DPOOL, "output_channels"),
    "ModulatedDeformRoIPoolPack": _pool_pack(mmcv.ModulatedDeformRoIPoolPack, *_DPOOL, "output_channels"),
    "MSDeformAttn": _plain(MSDeformAttn, "d_model", "n_levels", "n_heads", "n_points"),
    "MultiScaleDeformableAttention": _attention,
    "DCNv2Pooling": _plain(dcn_v2.DCNv2Pooling, *_DCN_POOLING),
    "DCNPooling": _dcn_pooling(dcn_v2.DCNPooling, "offset_mask_fc"),
    "DeformRoIPooling": _plain(dcn_v2.DeformRoIPooling, *_DCN_POOLING),
    "ModulatedDeformRoIPoolingPack": _dcn_pooling(dcn_v2.ModulatedDeformRoIPoolingPack, "offset_fc"),
}
"""How the layer of each class name is built anew."""

_LOOKS_DEFORMABLE = re.compile("deform|^dcn", re.IGNORECASE)


def _take_over(new: nn.Module, old: nn.Module) -> None:
    """Parameters, branches and hooks of ``old`` become those of ``new``: the very same objects."""
    keys = {name: tuple(value.shape) for name, value in old.state_dict(keep_vars=True).items()}
    own_keys = {name: tuple(value.shape) for name, value in new.state_dict(keep_vars=True).items()}
    extra = {name for name in keys if name.split(".")[0] in ("norm", "activation")}
    if {name: shape for name, shape in keys.items() if name not in extra} != own_keys:
        raise _Unfit(f"expected the state dict {own_keys} of {type(new).__name__}, got {keys}")
    for name, parameter in old._parameters.items():
        if parameter is not None:
            setattr(new, name, parameter)
    for branch, child in old.named_children():
        setattr(new, branch, child)
    new.training = old.training
    take_hooks(old, new)


def _swapped(old: nn.Module) -> nn.Module:
    if "forward" in vars(old):
        raise _Unfit("its forward was replaced")
    if nn.utils.parametrize.is_parametrized(old):
        raise _Unfit("its weight is parametrized; remove the parametrization first")
    try:
        with torch.device("meta"):
            new = RULES[type(old).__name__](old)
    except ValueError as error:
        raise _Unfit(str(error)) from error
    _take_over(new, old)
    return new


def _own(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] == "dcn"


def _candidates(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every foreign layer whose class name has a rule, and every one that looks deformable with none such inside."""
    matches: list[tuple[str, nn.Module]] = []
    for name, module in reversed(list(model.named_modules())):
        kind = type(module).__name__
        inside = any(other.startswith(f"{name}." if name else "") for other, _ in matches)
        if not _own(module) and (kind in RULES or (_LOOKS_DEFORMABLE.search(kind) and not inside)):
            matches.append((name, module))
    return matches[::-1]


def convert(model: nn.Module) -> Conversion:
    """Swap deformable convolutions and RoI poolings of other libraries for this package's; changes ``model`` itself.

    Layers are recognised by class name, attributes and state dict, so that the libraries need not be importable and
    copies of their classes in other people's code count too. The new layers are the drop-ins of :mod:`dcn.compat`: they
    are called as the old ones were, hold the very parameters, offset branches and hooks of the old ones and have the
    same state-dict keys. A layer that is used several times stays shared.

    Args:
        model: any module; not itself such a layer (nothing could hold its successor).

    Returns:
        What was changed, and which layers that look deformable were not and why; ``print`` shows both.

    Raises:
        ValueError: ``model`` is no module, or itself a layer to swap.
    """
    check_module("model", model)
    changed: list[Swap] = []
    skipped: list[Swap] = []
    for name, old in _candidates(model):
        kind = type(old).__name__
        if kind not in RULES:
            skipped.append((name, kind, "there is no drop-in for a class of this name"))
            continue
        if old is model:
            raise ValueError(f"model: expected a module that contains layers, got a {kind}; wrap it in nn.Sequential")
        try:
            new = _swapped(old)
        except _Unfit as reason:
            skipped.append((name, kind, str(reason)))
            continue
        replace_module(model, old, new)
        changed.append((name, kind, f"{type(new).__module__}.{type(new).__name__}"))
    return Conversion(tuple(changed), tuple(skipped))
