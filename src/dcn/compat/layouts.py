"""The channel orders in which deformable convolutions keep their offsets, by name, and the way from one to another.

With ``G`` offset groups and ``K`` kernel taps (row by row) an offset tensor has ``2*G*K`` channels:

=========  ==================  ==================================================================================
layout     channels            who
=========  ==================  ==================================================================================
``yx``     ``[G, K, (y, x)]``  this package, torchvision, mmcv, detectron2, MXNet, ONNX, Paddle, the DCNv2 forks
``xy``     ``[G, K, (x, y)]``  ports that follow the paper's notation
``yyxx``   ``[(y, x), G, K]``  all y, then all x: pure-PyTorch ports (their ``offset[:, :N]``, ``offset[:, N:]``)
``xxyy``   ``[(x, y), G, K]``  MindSpore and the Ascend operators
=========  ==================  ==================================================================================

Packed tensors hold the mask logits (or the mask) behind the offsets, ``3*G*K`` channels: ``chunk3`` is the order of the
old ports and of mmcv's packs, ``o1, o2, mask = chunk(3)`` and ``offset = cat(o1, o2)``, which despite its looks is
``yx`` offsets followed by the mask; ``mindspore`` is ``xxyy`` offsets followed by the mask.

The same functions turn the parameters of a layer that predicts offsets: give its weight or bias and ``dim=0``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcn import checks

LAYOUTS: dict[str, tuple[str, ...]] = {
    "yx": ("group", "tap", "axis"),
    "xy": ("group", "tap", "axis"),
    "yyxx": ("axis", "group", "tap"),
    "xxyy": ("axis", "group", "tap"),
}
"""The axes of each layout, outermost first."""

FRAMEWORKS = {
    **dict.fromkeys(("torchvision", "mmcv", "detectron2", "dcn_v2", "mxnet", "onnx", "paddle"), "yx"),
    "mindspore": "xxyy",
}
"""The layout of each library, accepted wherever a layout is."""

PACKED = {"chunk3": "yx", "mindspore": "xxyy"}
"""The offset layout inside of each packed layout."""


def _layout(name: str, value: str) -> str:
    checks.choice(name, value, [*LAYOUTS, *FRAMEWORKS])
    return FRAMEWORKS.get(value, value)


def channel_order(source: str, target: str, taps: int, groups: int = 1) -> Tensor:
    """Which source channel each target channel is.

    Args:
        source: layout of the tensor there is.
        target: layout of the result.
        taps: ``K``, such as 9 for a 3x3 kernel.
        groups: offset groups ``G``.

    Returns:
        ``[2*G*K]`` int64: ``target_tensor = source_tensor.index_select(dim, channel_order(...))``.

    Raises:
        ValueError: an unknown layout, or a number that does not fit.
    """
    source, target = _layout("source", source), _layout("target", target)
    sizes = {"group": checks.whole("groups", groups, 1), "tap": checks.whole("taps", taps, 1), "axis": 2}
    index = torch.arange(2 * groups * taps).view([sizes[axis] for axis in LAYOUTS[source]])
    index = index.permute([LAYOUTS[source].index(axis) for axis in LAYOUTS[target]])
    if source[0] != target[0]:
        index = index.flip(LAYOUTS[target].index("axis"))
    return index.reshape(-1)


def convert_offsets(offset: Tensor, source: str, target: str = "yx", *, groups: int = 1, dim: int = 1) -> Tensor:
    """Offsets in another channel order.

    Args:
        offset: any tensor with ``2*G*K`` entries along ``dim``: offsets ``[N, 2*G*K, H, W]``, or with ``dim=0`` the
            weight or bias of the convolution that predicts them.
        source: its layout: a name of :data:`LAYOUTS` or of :data:`FRAMEWORKS`.
        target: the layout of the result.
        groups: offset groups ``G``.
        dim: the axis of the channels.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: an unknown layout, or channels that are no multiple of ``2*G``.
    """
    checks.tensor("offset", offset)
    channels = offset.shape[dim]
    if channels % (2 * checks.whole("groups", groups, 1)) or not channels:
        raise ValueError(f"offset: expected a multiple of 2*groups={2 * groups} channels in axis {dim}, got {channels}")
    order = channel_order(source, target, channels // (2 * groups), groups)
    return offset.index_select(dim, order.to(offset.device))


def split_packed(packed: Tensor, layout: str = "chunk3", *, groups: int = 1, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Offsets in ``yx`` order and the mask, from one tensor that holds both.

    Args:
        packed: a tensor with ``3*G*K`` entries along ``dim``.
        layout: a name of :data:`PACKED`.
        groups: offset groups ``G``.
        dim: the axis of the channels.

    Returns:
        Offsets (``2*G*K`` channels) and the rest (``G*K`` channels), which is the mask or its logits, as it came.

    Raises:
        ValueError: an unknown layout, or channels that are no multiple of ``3*G``.
    """
    checks.tensor("packed", packed)
    checks.choice("layout", layout, list(PACKED))
    channels = packed.shape[dim]
    if channels % (3 * checks.whole("groups", groups, 1)) or not channels:
        raise ValueError(f"packed: expected a multiple of 3*groups={3 * groups} channels in axis {dim}, got {channels}")
    offset, mask = packed.split([channels * 2 // 3, channels // 3], dim)
    return convert_offsets(offset, PACKED[layout], "yx", groups=groups, dim=dim), mask


def join_packed(offset: Tensor, mask: Tensor, layout: str = "chunk3", *, groups: int = 1, dim: int = 1) -> Tensor:
    """The inverse of :func:`split_packed`: ``yx`` offsets and a mask as one tensor.

    Raises:
        ValueError: an unknown layout, or a mask without half as many channels as the offsets.
    """
    checks.choice("layout", layout, list(PACKED))
    if offset.shape[dim] != 2 * mask.shape[dim]:
        raise ValueError(
            f"mask: expected {offset.shape[dim] // 2} channels, half of those of offset, got {mask.shape[dim]}"
        )
    return torch.cat((convert_offsets(offset, "yx", PACKED[layout], groups=groups, dim=dim), mask), dim)
