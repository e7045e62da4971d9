"""Make chosen convolutions of any network deformable, and back, without changing what the network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from dcn.nn.deform_conv import DeformConv1d, DeformConv2d, DeformConv3d

Deformable = DeformConv1d | DeformConv2d | DeformConv3d
Choice = str | Iterable[str] | Callable[[str, nn.Conv2d], bool]


def _chosen(layers: Choice) -> Callable[[str, nn.Conv2d], bool]:
    if callable(layers):
        return layers
    patterns = [layers] if isinstance(layers, str) else list(layers)
    return lambda name, _: any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` hangs: a shared module has several places and stays shared."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new


def _hooks(old: nn.Module, new: nn.Module) -> None:
    """Forward and backward hooks of the old layer belong to the new one."""
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        getattr(new, name).update(getattr(old, name))
    for name in ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"):
        getattr(new, name).update(getattr(old, name))


def _padding(conv: nn.Conv2d) -> tuple[int, ...] | None:
    """Its padding as numbers; ``None`` for a "same" padding that is not the same on both sides."""
    if isinstance(conv.padding, str):
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if conv.padding == "valid":
            return (0,) * len(total)
        return None if any(t % 2 for t in total) else tuple(t // 2 for t in total)
    return tuple(conv.padding)


def _unfit(conv: nn.Conv2d, offset_groups: int) -> str | None:
    if type(conv) is not nn.Conv2d:
        return f"it is a {type(conv).__name__}, a subclass that may compute something else"
    if conv.padding_mode != "zeros":
        return f"its padding mode is {conv.padding_mode!r}, a deformable layer knows 'zeros' only"
    if _padding(conv) is None:
        return "its padding 'same' differs on the two sides"
    if conv.in_channels % offset_groups:
        return f"its {conv.in_channels} input channels are not divisible by offset_groups={offset_groups}"
    if nn.utils.parametrize.is_parametrized(conv):
        return "its weight is parametrized; remove the parametrization first"
    return None


def _take_over(new: nn.Module, old: nn.Module) -> None:
    """Weight and bias are the very parameters of the old layer: optimisers that hold them keep working."""
    for name in ("weight", "bias"):
        setattr(new, name, getattr(old, name))
    new.train(old.training)
    _hooks(old, new)


def _deformable(
    conv: nn.Conv2d,
    *,
    keep_weights: bool,
    modulated: bool,
    offset_groups: int,
    boundary: str,
    offset_bound: float | None,
) -> DeformConv2d:
    padding = _padding(conv)
    assert padding is not None
    layer = DeformConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        offset_groups,
        modulated,
        boundary,
        # The mask starts at 2 * sigmoid(0) = 1: the layer starts as the convolution it replaces.
        mask_scale=2.0 if modulated else 1.0,
        offset_bound=offset_bound,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    if keep_weights:
        _take_over(layer, conv)
    else:
        layer.train(conv.training)
        _hooks(conv, layer)
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
) -> list[str]:
    """Turn chosen ``nn.Conv2d`` of ``model`` into :class:`dcn.nn.DeformConv2d`, in place.

    With ``keep_weights`` the model computes exactly the same function until its offset branches are trained: offsets
    start at 0, masks at 1. The new layers hold the very parameters of the old ones, so their type, device,
    ``requires_grad`` and place in an optimiser stay; hooks and the training flag too. A module that hangs in several
    places stays shared.

    Args:
        model: any module; not itself an ``nn.Conv2d`` (nothing could hold its successor).
        layers: names as in ``model.named_modules()``, patterns such as ``"layer4.*.conv2"``, or a function of name and
            convolution. Names of one module in several places all count.
        keep_weights: take over weight and bias; otherwise they are drawn anew.
        modulated: predict masks too.
        offset_groups: offset groups of each new layer.
        boundary: rule at the edge of the map, see :func:`dcn.ops.deform_conv2d`. At zero offsets both rules agree.
        offset_bound: largest offset in pixels, or ``None``.

    Returns:
        Names of the changed layers, in the order of the model.

    Raises:
        ValueError: nothing was chosen, or a chosen layer cannot be replaced (with the reason); the model is unchanged.
    """
    found = _convolutions(model, layers)
    for name, conv in found:
        reason = _unfit(conv, offset_groups)
        if reason is not None:
            raise ValueError(f"layers: {name!r} cannot become deformable: {reason}; leave it out")
    made: dict[nn.Module, DeformConv2d] = {}
    for _, conv in found:
        if conv not in made:
            made[conv] = _deformable(
                conv,
                keep_weights=keep_weights,
                modulated=modulated,
                offset_groups=offset_groups,
                boundary=boundary,
                offset_bound=offset_bound,
            )
            _replace(model, conv, made[conv])
    return [name for name, _ in found]


def _convolutions(model: nn.Module, layers: Choice) -> list[tuple[str, nn.Conv2d]]:
    if isinstance(model, nn.Conv2d):
        raise ValueError("model: expected a module that contains convolutions, got a Conv2d; wrap it in nn.Sequential")
    chosen = _chosen(layers)
    owned = {id(layer.conv_offset) for layer in model.modules() if isinstance(layer, Deformable)}
    candidates = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Conv2d) and id(module) not in owned
    ]
    found = [(name, conv) for name, conv in candidates if chosen(name, conv)]
    if not found:
        some = [name for name, _ in candidates[:8]]
        raise ValueError(
            f"layers: {layers!r} chooses none of the {len(candidates)} convolutions; they are named {some}..."
        )
    return found


def _plain(layer: DeformConv2d) -> nn.Conv2d:
    conv = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        _pair(layer.kernel_size),
        _pair(layer.stride),
        _pair(layer.padding),
        _pair(layer.dilation),
        layer.groups,
        layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    _take_over(conv, layer)
    return conv


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[1]


def undeformify(model: nn.Module) -> list[str]:
    """Turn every :class:`dcn.nn.DeformConv2d` of ``model`` back into an ``nn.Conv2d`` with its weight, in place.

    The offset branches are dropped. The function stays the same where offsets are 0 and masks 1, as after
    :func:`deformify`; a trained layer loses what its branch has learned.

    Returns:
        Names of the changed layers, in the order of the model.

    Raises:
        ValueError: ``model`` is itself such a layer (nothing could hold its successor).
    """
    if isinstance(model, DeformConv2d):
        raise ValueError("model: expected a module that contains layers, got a DeformConv2d; wrap it in nn.Sequential")
    found = [
        (name, layer) for name, layer in model.named_modules(remove_duplicate=False) if isinstance(layer, DeformConv2d)
    ]
    made: dict[nn.Module, nn.Conv2d] = {}
    for _, layer in found:
        if layer not in made:
            made[layer] = _plain(layer)
            _replace(model, layer, made[layer])
    return [name for name, _ in found]


def offset_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of all offset branches of ``model``: the group for a learning rate of its own.

    The papers train them at 1x (detection) or 0.1x (the modulated example) the base rate.
    """
    seen: set[int] = set()
    for layer in model.modules():
        if isinstance(layer, Deformable):
            for parameter in layer.conv_offset.parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter
