"""Make chosen convolutions of any network deformable, and back, without changing what the network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from dcn import checks
from dcn.nn.dcnv3 import DCNv3
from dcn.nn.dcnv4 import DCNv4
from dcn.nn.deform_conv import DeformConv1d, DeformConv2d, DeformConv3d, check_module
from dcn.nn.deform_depthwise import STYLES, DeformDepthwiseConv2d
from dcn.nn.offset_layer import OffsetLayer

Deformable = DeformConv1d | DeformConv2d | DeformConv3d | DeformDepthwiseConv2d
Choice = str | Sequence[str] | Callable[[str, nn.Conv2d], bool]
Named = tuple[str, nn.Conv2d]
BRANCHES = (
    *("conv_offset", "conv_offset_mask", "offset_fc", "mask_fc", "offset_mask_fc", "offset_maps"),
    "sampling_offsets",
)
"""Names of the branches that give offsets and masks, in this package and in the libraries that it has drop-ins for."""
_OWN_BRANCHES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (DCNv3, ("offset", "mask")),
    (DCNv4, ("offset_mask", "offset_mask_dw")),
)
"""Branches whose names mean something else in other layers."""
_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _some(candidates: Sequence[tuple[str, nn.Module]]) -> str:
    """What a message expects: convolutions of the model, the first of them by name."""
    names = ", ".join(repr(name) for name, _ in candidates[:8])
    return f"some of the {len(candidates)} nn.Conv2d of the model ({names}{', ...' if len(candidates) > 8 else ''})"


def _select(model: nn.Module, candidates: list[Named], layers: Choice) -> list[Named]:
    """The candidates that ``layers`` chooses; every pattern must choose one."""
    if callable(layers):
        return [(name, conv) for name, conv in candidates if layers(name, conv)]
    patterns = [layers] if isinstance(layers, str) else layers
    if not isinstance(patterns, (list, tuple, set, frozenset)) or not all(isinstance(p, str) for p in patterns):
        raise ValueError(f"layers: expected a name, several names or a function of name and layer, got {layers!r}")
    for pattern in patterns:
        if not any(_matches(name, pattern) for name, _ in candidates):
            others = [f"{name} ({type(m).__name__})" for name, m in model.named_modules() if _matches(name, pattern)]
            chosen = f"chooses only {', '.join(others[:4])}" if others else "chooses none"
            raise ValueError(f"layers: expected {_some(candidates)}, got {pattern!r}, which {chosen}")
    return [(name, conv) for name, conv in candidates if any(_matches(name, pattern) for pattern in patterns)]


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` hangs: a module that is used several times stays shared."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new


def take_hooks(old: nn.Module, new: nn.Module) -> None:
    """Hooks of the old layer belong to the new one; the very same tables, so that their handles still remove them."""
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))


def _unfit(conv: nn.Conv2d, offset_groups: int) -> str | None:
    if nn.utils.parametrize.is_parametrized(conv):
        return "its weight is parametrized; remove the parametrization first"
    if type(conv) is not nn.Conv2d:
        return f"it is a {type(conv).__name__}, a subclass that may compute something else"
    if "weight" not in conv._parameters:
        return "its weight is computed by a hook (weight_norm, spectral_norm, pruning); remove that first"
    if "forward" in vars(conv) or conv.weight.dtype not in checks.FLOATS:
        return f"its forward was replaced, or its type {conv.weight.dtype} is none of the operator's"
    if conv.in_channels % offset_groups:
        return f"its {conv.in_channels} input channels are not divisible by offset_groups={offset_groups}"
    return None


def _take_over(new: nn.Module, old: nn.Module, keep_weights: bool) -> None:
    """Mode and hooks; kept weights are the very parameters of the old layer: optimisers that hold them keep working."""
    for name in ("weight", "bias") if keep_weights else ():
        setattr(new, name, getattr(old, name))
    new.train(old.training)
    take_hooks(old, new)


def _deformable(
    conv: nn.Conv2d,
    *,
    keep_weights: bool,
    modulated: bool,
    offset_groups: int,
    boundary: str,
    offset_bound: float | None,
) -> DeformConv2d:
    layer = DeformConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        offset_groups,
        modulated,
        boundary,
        # The mask starts at 2 * sigmoid(0) = 1: the layer starts as the convolution it replaces.
        mask_scale=2.0 if modulated else 1.0,
        offset_bound=offset_bound,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    _take_over(layer, conv, keep_weights)
    return layer


def _not_depthwise(conv: nn.Conv2d) -> str | None:
    if conv.groups == conv.in_channels == conv.out_channels:
        return None
    return (
        f"it has {conv.in_channels} input channels, {conv.out_channels} output channels and {conv.groups} groups, this "
        "style is for depthwise convolutions, where the three are equal"
    )


def _depthwise(conv: nn.Conv2d, *, keep_weights: bool, offset_groups: int, style: str) -> DeformDepthwiseConv2d:
    layer = DeformDepthwiseConv2d(
        conv.in_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.bias is not None,
        offset_groups,
        style,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    _take_over(layer, conv, keep_weights)
    return layer


def deformify(
    model: nn.Module,
    layers: Choice,
    *,
    keep_weights: bool = True,
    modulated: bool = False,
    offset_groups: int = 1,
    boundary: str = "v2",
    offset_bound: float | None = None,
    style: str = "conv",
) -> list[str]:
    """Turn chosen ``nn.Conv2d`` of ``model`` into :class:`dcn.nn.DeformConv2d`, in place.

    Strides, dilations, groups, any padding and padding mode are taken over.

    With ``keep_weights`` the model computes exactly the same function until its offset branches are trained: offsets
    start at 0, masks at 1. The new layers hold the very parameters of the old ones, so their type, device,
    ``requires_grad`` and membership in an optimiser stay; hooks and the training flag too. A module that is used
    several times stays shared.

    Args:
        model: any module; not itself an ``nn.Conv2d`` (nothing could hold its successor).
        layers: names as in ``model.named_modules()``, patterns such as ``"layer4.*.conv2"``, or a function of name and
            convolution. All names of a shared module count; each pattern must choose a layer.
        keep_weights: take over weight and bias; otherwise they are initialised anew.
        modulated: predict masks too.
        offset_groups: offset groups of each new layer.
        boundary: rule at the edge of the map, see :func:`dcn.ops.deform_conv2d`. At zero offsets both rules agree.
        offset_bound: largest offset in pixels, or ``None``.
        style: ``"conv"``: the offset branch is a convolution. ``"dcnv3"`` or ``"dcnv4"``: depthwise convolutions become
            :class:`dcn.nn.DeformDepthwiseConv2d` with the cheap branch of that operator, always with masks.

    Returns:
        Names of the changed layers, in the order of the model.

    Raises:
        ValueError: an argument does not fit, nothing was chosen, or a chosen layer cannot be replaced (with the reason:
            a subclass of ``nn.Conv2d``, a weight that is parametrized or made by a hook); the model is unchanged.
    """
    checks.whole("offset_groups", offset_groups, 1)
    checks.flag("keep_weights", keep_weights)
    checks.choice("style", style, ("conv", *STYLES))
    if style != "conv" and (modulated, boundary, offset_bound) != (False, "v2", None):
        raise ValueError(
            f"style: expected 'conv' with modulated, boundary or offset_bound, got {style!r}; leave them out, its "
            "layers always have masks, rule v2 and no bound"
        )
    chosen = _convolutions(model, layers)
    for name, conv in chosen:
        reason = _unfit(conv, offset_groups) or (_not_depthwise(conv) if style != "conv" else None)
        if reason is not None:
            raise ValueError(
                f"layers: expected convolutions that can become deformable, got {name!r}: {reason}; leave it out"
            )
    made: dict[nn.Module, nn.Module] = {}
    for _, conv in chosen:
        if conv not in made and style != "conv":
            made[conv] = _depthwise(conv, keep_weights=keep_weights, offset_groups=offset_groups, style=style)
            replace_module(model, conv, made[conv])
        elif conv not in made:
            made[conv] = _deformable(
                conv,
                keep_weights=keep_weights,
                modulated=modulated,
                offset_groups=offset_groups,
                boundary=boundary,
                offset_bound=offset_bound,
            )
            replace_module(model, conv, made[conv])
    return [name for name, _ in chosen]


def _convolutions(model: nn.Module, layers: Choice) -> list[tuple[str, nn.Conv2d]]:
    if isinstance(model, nn.Conv2d):
        raise ValueError("model: expected a module that contains convolutions, got a Conv2d; wrap it in nn.Sequential")
    check_module("model", model)
    own = [layer for layer in model.modules() if isinstance(layer, Deformable | OffsetLayer)]
    branches = [b.conv_offset if isinstance(b, Deformable) else b.offset_branch for b in own]
    owned = {id(part) for branch in branches for part in branch.modules()}
    candidates = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Conv2d) and id(module) not in owned
    ]
    chosen = _select(model, candidates, layers)
    if not chosen:
        raise ValueError(f"layers: expected {_some(candidates)}, got {layers!r}, which chooses none")
    return chosen


def _plain(layer: DeformConv2d | DeformDepthwiseConv2d) -> nn.Conv2d:
    conv = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        _pair(layer.kernel_size),
        _pair(layer.stride),
        "same" if layer.uneven else _pair(layer.padding),
        _pair(layer.dilation),
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    _take_over(conv, layer, keep_weights=True)
    return conv


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[1]


def undeformify(model: nn.Module) -> list[str]:
    """Turn every layer that :func:`deformify` makes back into an ``nn.Conv2d`` with its weight, in place.

    The offset branches are dropped. The function stays the same where offsets are 0 and masks 1, as after
    :func:`deformify`; a trained layer loses what its branch has learned.

    Returns:
        Names of the changed layers, in the order of the model.

    Raises:
        ValueError: ``model`` is no module, or itself such a layer (nothing could hold its successor).
    """
    check_module("model", model)
    if isinstance(model, DeformConv2d | DeformDepthwiseConv2d):
        raise ValueError(
            f"model: expected a module that contains layers, got a {type(model).__name__}; wrap it in nn.Sequential"
        )
    chosen = [
        (name, layer)
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, DeformConv2d | DeformDepthwiseConv2d)
    ]
    made: dict[nn.Module, nn.Conv2d] = {}
    for _, layer in chosen:
        if layer not in made:
            made[layer] = _plain(layer)
            replace_module(model, layer, made[layer])
    return [name for name, _ in chosen]


def _is_branch(layer: nn.Module, name: str) -> bool:
    return name in BRANCHES or any(isinstance(layer, kind) and name in names for kind, names in _OWN_BRANCHES)


def offset_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of all offset and mask branches of ``model``: the group for a learning rate of its own.

    These are the children named as in :data:`BRANCHES`: of the deformable convolutions, of the RoI pooling layers, of
    R-FCN's head, of multi-scale deformable attention (its offsets), and of the drop-ins; and the branches of
    :class:`dcn.nn.DCNv3` and :class:`dcn.nn.DCNv4`. The papers train them at 1x (convolutions,
    R-FCN), 0.1x (the modulated example) or 0.01x (``offset_fc`` of Faster R-CNN) the base rate.

    Returns:
        The parameters, each once, in the order of the model.

    Raises:
        ValueError: ``model`` is no module.
    """
    check_module("model", model)
    branches = [child for layer in model.modules() for name, child in layer.named_children() if _is_branch(layer, name)]
    return iter(dict.fromkeys(parameter for branch in branches for parameter in branch.parameters()))
