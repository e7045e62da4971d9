"""Deformable convolution layers that own their offset branch: drop-in replacements of ``nn.Conv1d/2d/3d``.

Dai et al. 2017, section 2.1: a convolution on the same input, of the same kernel, stride and dilation, gives the
offsets. It starts at zero, so that the layer starts as an ordinary convolution. Modulated (Zhu et al. 2019, section
2.2): the same branch also gives one factor per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from numbers import Integral
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from dcn import checks
from dcn.nn.tracing import is_traced, recorded
from dcn.ops import deform_conv1d, deform_conv2d, deform_conv3d
from dcn.ops._backends import check_name
from dcn.ops.deform_conv import BACKENDS, BOUNDARIES, output_size

Numbers = int | Sequence[int]
BOUNDS = ("clamp", "tanh")
PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_LAYOUTS = {1: "[N, C, W]", 2: "[N, C, H, W]", 3: "[N, C, D, H, W]"}
_OPS: dict[int, Callable[..., Tensor]] = {1: deform_conv1d, 2: deform_conv2d, 3: deform_conv3d}
_CONVS: dict[int, Callable[..., nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Pixels before and behind the map per axis, as ``padding="same"`` of ``nn.Conv2d`` has them."""
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [(t // 2, t - t // 2) for t in total]


def padding_sides(
    padding: Numbers | str, n: int, kernel: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """``padding`` as pixels before and behind the map per axis."""
    if padding == "same":
        return _same_padding(kernel, dilation)
    if padding == "valid":
        return [(0, 0)] * n
    if isinstance(padding, str):
        raise ValueError(f"padding: expected an int, {n} ints, 'same' or 'valid', got {padding!r}")
    return [(p, p) for p in checks.int_tuple("padding", padding, n, 0)]


class _DeformConv(nn.Module):
    """The layer in ``n`` dimensions; the public classes only fix ``n``."""

    _dimensions = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        offset_groups: int = 1,
        modulated: bool = False,
        boundary: str = "v2",
        *,
        mask_scale: float = 1.0,
        offset_padding: Numbers | None = None,
        offset_dilation: Numbers | None = None,
        offset_bound: float | None = None,
        bound: str = "clamp",
        padding_mode: PaddingMode = "zeros",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        n = self._dimensions
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = checks.int_tuple("kernel_size", kernel_size, n, 1)
        self.stride = checks.int_tuple("stride", stride, n, 1)
        self.dilation = checks.int_tuple("dilation", dilation, n, 1)
        sides = padding_sides(padding, n, self.kernel_size, self.dilation)
        self.padding = tuple(before for before, _ in sides)
        self.offset_groups, self.modulated, self.boundary = offset_groups, modulated, boundary
        self.mask_scale, self.offset_bound, self.bound, self.backend = mask_scale, offset_bound, bound, backend
        self.padding_mode = padding_mode
        self._check(bias)
        # Integers of NumPy are accepted, and kept as Python's.
        self.in_channels, self.out_channels = int(in_channels), int(out_channels)
        self.groups, self.offset_groups = int(groups), int(offset_groups)
        self.uneven = any(before != behind for before, behind in sides)
        padded = self.uneven or padding_mode != "zeros"
        self._pad = [p for pair in reversed(sides) for p in pair] if padded else None
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size, device=device, dtype=dtype)
        )
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        per_tap = n + 1 if modulated else n
        self.conv_offset = _CONVS[n](
            in_channels,
            per_tap * offset_groups * prod(self.kernel_size),
            self.kernel_size,
            stride=self.stride,
            padding=("same" if self.uneven else self.padding)
            if offset_padding is None
            else checks.int_tuple("offset_padding", offset_padding, n, 0),
            dilation=self.dilation
            if offset_dilation is None
            else checks.int_tuple("offset_dilation", offset_dilation, n, 1),
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.reset_parameters()

    def _check(self, bias: bool) -> None:
        checks.whole("in_channels", self.in_channels, 1)
        for name, value in (("groups", self.groups), ("offset_groups", self.offset_groups)):
            if not isinstance(value, (int, Integral)) or value < 1 or self.in_channels % value:
                raise ValueError(f"{name}: expected a divisor of in_channels={self.in_channels}, got {value!r}")
        if checks.whole("out_channels", self.out_channels, 1) % self.groups:
            raise ValueError(f"out_channels: expected a multiple of groups={self.groups}, got {self.out_channels}")
        checks.flag("bias", bias)
        checks.flag("modulated", self.modulated)
        checks.choice("boundary", self.boundary, BOUNDARIES)
        checks.choice("bound", self.bound, BOUNDS)
        checks.choice("padding_mode", self.padding_mode, PADDING_MODES)
        checks.number("mask_scale", self.mask_scale, above=0.0)
        if self.offset_bound is not None:
            checks.number("offset_bound", self.offset_bound, above=0.0)
        check_name(BACKENDS, self.backend)

    def _check_input(self, input: Tensor) -> None:
        """What the offset branch, an ordinary convolution, would refuse in other words."""
        checks.ndim("input", input, self._dimensions + 2, _LAYOUTS[self._dimensions])
        if input.shape[1] != self.in_channels:
            raise ValueError(f"input: expected {self.in_channels} channels, got shape {list(input.shape)}")
        cast = input.dtype != self.weight.dtype and not input.is_meta and torch.is_autocast_enabled(input.device.type)
        if input.dtype != self.weight.dtype and not cast:
            raise ValueError(
                f"input: expected {self.weight.dtype}, the type of the layer, got {input.dtype}; convert one of them "
                "or use torch.autocast"
            )
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation)
        if min(output_size(input.shape[2:], *geometry)) < 1:
            raise ValueError(
                f"input: expected a size that gives at least one output location with kernel {list(self.kernel_size)}, "
                f"padding {list(self.padding)} and dilation {list(self.dilation)}, got shape {list(input.shape)}"
            )

    def reset_parameters(self) -> None:
        """Weight and bias as ``nn.Conv2d`` starts them (uniform, 1/sqrt(fan in)); the offset branch at zero."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            limit = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -limit, limit)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    @property
    def offset_branch(self) -> nn.Module:
        """The convolution ``conv_offset``, see :class:`dcn.nn.offset_layer.OffsetLayer`."""
        return self.conv_offset

    def offsets(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the offset branch says about ``input``, after the bound and the sigmoid.

        Args:
            input: ``[N, C, *size]``.

        Returns:
            offset ``[N, n*G*K, *out]`` in pixels of the input and mask ``[N, G*K, *out]`` in ``(0, mask_scale)``, or
            ``None`` for a layer that is not modulated.
        """
        return self.split(self.conv_offset(input))

    def split(self, predicted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offset and mask from what ``conv_offset`` put out, as :meth:`offsets` gives them.

        Args:
            predicted: ``[N, n*G*K, *out]``, modulated ``[N, (n+1)*G*K, *out]``.
        """
        if not self.modulated:
            return self._bounded(predicted), None
        count = self._dimensions * self.offset_groups * prod(self.kernel_size)
        mask = predicted[:, count:].sigmoid()
        return self._bounded(predicted[:, :count]), mask if self.mask_scale == 1.0 else mask * self.mask_scale

    def _bounded(self, offset: Tensor) -> Tensor:
        radius = self.offset_bound
        if radius is None:
            return offset
        return offset.clamp(-radius, radius) if self.bound == "clamp" else radius * torch.tanh(offset / radius)

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, *size]`` to ``[N, O, *out]``, the sizes of an ordinary convolution; or both without ``N``.

        Raises:
            ValueError: ``input`` has another number of axes, channels or another type than the layer, or is too small.
        """
        if is_traced(self, input):
            return recorded(self, input)
        if isinstance(input, Tensor) and input.ndim == self._dimensions + 1:
            return self.forward(input[None])[0]
        self._check_input(input)
        offset, mask = self.offsets(input)
        padding = self.padding
        if self._pad is not None:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input, padding = nn.functional.pad(input, self._pad, mode), (0,) * self._dimensions
        return _OPS[self._dimensions](
            input,
            offset,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            mask,
            boundary=self.boundary,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, for ``print``."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        defaults: tuple[tuple[str, Any], ...] = (
            ("padding", (0,) * self._dimensions),
            ("dilation", (1,) * self._dimensions),
            ("groups", 1),
            ("offset_groups", 1),
            ("modulated", False),
            ("padding_mode", "zeros"),
            ("boundary", "v2"),
            ("mask_scale", 1.0),
            ("offset_bound", None),
            ("backend", None),
        )
        text += "".join(f", {name}={getattr(self, name)!r}" for name, usual in defaults if getattr(self, name) != usual)
        text += f", bound={self.bound!r}" if self.offset_bound is not None else ""
        return text + (", bias=False" if self.bias is None else "")


def check_module(name: str, value: nn.Module) -> None:
    """Refuse what is not a module.

    Raises:
        ValueError: ``value`` is no ``torch.nn.Module``.
    """
    if not isinstance(value, nn.Module):
        raise ValueError(f"{name}: expected a torch.nn.Module, got {type(value).__name__}")


def rename_old_keys(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the key names of today.

    Old checkpoints keep the offset branch beside the layer, ``conv2_offset.weight`` for ``conv2.conv_offset.weight``. A
    layer sees only keys that begin with its own name, so a hook of its own could not find them.

    Args:
        model: tells which names are deformable layers: those with a ``conv_offset``, the drop-ins of mmcv included.
        state: a state dict; it is not changed.

    Returns:
        A new dict in the same order; keys that need no new name as they are.

    Raises:
        ValueError: ``model`` is no module.
    """
    check_module("model", model)
    names = {name for name, layer in model.named_modules() if hasattr(layer, "conv_offset")}
    result = {}
    for key, value in state.items():
        layer, _, parameter = key.rpartition("_offset.")
        result[f"{layer}.conv_offset.{parameter}" if layer in names else key] = value
    return result


class DeformConv1d(_DeformConv):
    """Deformable convolution of sequences ``[N, C, W]``; arguments as :class:`DeformConv2d` with one number per axis.

    ``conv_offset`` has ``G*K`` channels, ``2*G*K`` when modulated.
    """

    _dimensions = 1


class DeformConv2d(_DeformConv):
    """Deformable convolution with its own offset branch; replaces ``nn.Conv2d``.

    Parameters ``weight`` and ``bias`` are those of ``nn.Conv2d``. ``conv_offset`` is an ordinary convolution of the
    same kernel, stride, padding and dilation with ``2*G*K`` channels (per group and tap ``y, x``), or ``3*G*K`` when
    modulated (the rest: mask logits). Both start at zero. See :func:`rename_old_keys` for older key names.

    Args:
        in_channels: channels ``C`` of the input.
        out_channels: channels ``O`` of the output.
        kernel_size: an int or ``(y, x)``.
        stride: as in ``nn.Conv2d``.
        padding: as in ``nn.Conv2d``, ``"same"`` and ``"valid"`` too.
        dilation: as in ``nn.Conv2d``.
        groups: divides ``C`` and ``O``.
        bias: whether the layer has one (the offset branch always has).
        offset_groups: ``G``, divides ``C``: how many parts of the channels move on their own.
        modulated: also predict a mask (v2).
        boundary: the rule at the edge of the map, see :func:`dcn.ops.deform_conv2d`.
        mask_scale: mask = mask_scale * sigmoid(logit). 1.0: as in later PyTorch code, the mask starts at 0.5; 2.0: as
            in the original symbol, it starts at 1.
        offset_padding: padding of the offset branch where it differs (the original DeepLab: 1).
        offset_dilation: its dilation where it differs (the original DeepLab: 1). The size of its output must stay that
            of the layer's.
        offset_bound: largest offset in pixels per axis, or ``None`` for no bound.
        bound: how: ``"clamp"`` (exact inside, no gradient beyond) or ``"tanh"`` (smooth).
        padding_mode: ``"zeros"``: nothing is padded, samples outside the map count as 0. ``"reflect"``,
            ``"replicate"``, ``"circular"``: the map is padded so for the layer and its branch; samples beyond the
            padding count as 0.
        backend: the backend of the operator, ``None`` for the fastest.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Example:
        >>> layer = DeformConv2d(64, 128, 3, stride=2, padding=1, modulated=True)
        >>> x = torch.rand(2, 64, 32, 40)
        >>> layer(x).shape
        torch.Size([2, 128, 16, 20])
        >>> offset, mask = layer.offsets(x)  # pixels of x, per tap y, x; factors 0..1
        >>> offset.shape, mask.shape
        (torch.Size([2, 18, 16, 20]), torch.Size([2, 9, 16, 20]))
    """

    _dimensions = 2


class DeformConv3d(_DeformConv):
    """Deformable convolution of volumes ``[N, C, D, H, W]``; arguments as :class:`DeformConv2d`, or three numbers each.

    ``conv_offset`` has ``3*G*K`` channels (per group and tap ``z, y, x``), ``4*G*K`` when modulated.
    """

    _dimensions = 3
