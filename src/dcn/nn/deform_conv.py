"""Deformable convolution layers that own their offset branch: drop-in replacements of ``nn.Conv1d/2d/3d``.

Dai et al. 2017, section 2.1: a convolution on the same input, of the same kernel, stride and dilation, gives the
offsets. It starts at zero, so that the layer starts as an ordinary convolution. Modulated (Zhu et al. 2019, section
2.2): the same branch also gives one factor per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dcn.ops import deform_conv1d, deform_conv2d, deform_conv3d

Numbers = int | Sequence[int]
BOUNDS = ("clamp", "tanh")
_OPS: dict[int, Callable[..., Tensor]] = {1: deform_conv1d, 2: deform_conv2d, 3: deform_conv3d}
_CONVS: dict[int, Callable[..., nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _numbers(name: str, value: Numbers, n: int, minimum: int) -> tuple[int, ...]:
    values = (value,) * n if isinstance(value, int) else tuple(value)
    if len(values) != n or any(not isinstance(v, int) or v < minimum for v in values):
        raise ValueError(f"{name}: expected an int or {n} ints of at least {minimum}, got {value!r}")
    return values


class _DeformConv(nn.Module):
    """The layer in ``n`` dimensions; the public classes only fix ``n``."""

    _dimensions = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
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
        padding_mode: str = "zeros",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        n = self._dimensions
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _numbers("kernel_size", kernel_size, n, 1)
        self.stride = _numbers("stride", stride, n, 1)
        self.padding = _numbers("padding", padding, n, 0)
        self.dilation = _numbers("dilation", dilation, n, 1)
        self.offset_groups, self.modulated, self.boundary = offset_groups, modulated, boundary
        self.mask_scale, self.offset_bound, self.bound, self.backend = mask_scale, offset_bound, bound, backend
        self.padding_mode = padding_mode
        self._check()
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
            padding=self.padding if offset_padding is None else _numbers("offset_padding", offset_padding, n, 0),
            dilation=self.dilation if offset_dilation is None else _numbers("offset_dilation", offset_dilation, n, 1),
            device=device,
            dtype=dtype,
        )
        self.reset_parameters()

    def _check(self) -> None:
        for name, value in (("groups", self.groups), ("offset_groups", self.offset_groups)):
            if value < 1 or self.in_channels % value:
                raise ValueError(f"{name}: expected a divisor of in_channels={self.in_channels}, got {value}")
        if self.out_channels < 1 or self.out_channels % self.groups:
            raise ValueError(f"out_channels: expected a multiple of groups={self.groups}, got {self.out_channels}")
        if self.boundary not in ("v1", "v2"):
            raise ValueError(f"boundary: expected 'v1' or 'v2', got {self.boundary!r}")
        if self.bound not in BOUNDS:
            raise ValueError(f"bound: expected one of {list(BOUNDS)}, got {self.bound!r}")
        if self.offset_bound is not None and self.offset_bound <= 0:
            raise ValueError(f"offset_bound: expected a radius above 0 in pixels or None, got {self.offset_bound}")
        if self.mask_scale <= 0:
            raise ValueError(f"mask_scale: expected a factor above 0 (1.0 or 2.0), got {self.mask_scale}")
        if self.padding_mode != "zeros":
            raise ValueError(
                f"padding_mode: expected 'zeros', got {self.padding_mode!r}; samples outside the map are 0 by the rule "
                "of the operator, pad the input with torch.nn.functional.pad for anything else"
            )

    def reset_parameters(self) -> None:
        """Weight and bias as ``nn.Conv2d`` starts them (uniform, 1/sqrt(fan in)); the offset branch at zero."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            limit = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -limit, limit)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

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
        """``[N, C, *size]`` to ``[N, O, *out]``, the sizes of an ordinary convolution."""
        offset, mask = self.offsets(input)
        return _OPS[self._dimensions](
            input,
            offset,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
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
            ("boundary", "v2"),
            ("mask_scale", 1.0),
            ("offset_bound", None),
            ("backend", None),
        )
        text += "".join(f", {name}={getattr(self, name)!r}" for name, usual in defaults if getattr(self, name) != usual)
        text += f", bound={self.bound!r}" if self.offset_bound is not None else ""
        return text + (", bias=False" if self.bias is None else "")


def rename_old_keys(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the key names of today.

    Old checkpoints keep the offset branch beside the layer, ``conv2_offset.weight`` for ``conv2.conv_offset.weight``. A
    layer sees only keys that begin with its own name, so a hook of its own could not find them.

    Args:
        model: tells which names are deformable layers.
        state: a state dict; it is not changed.

    Returns:
        A new dict in the same order; keys that need no new name as they are.
    """
    names = {name for name, layer in model.named_modules() if isinstance(layer, _DeformConv)}
    result = {}
    for key, value in state.items():
        layer, _, parameter = key.rpartition("_offset.")
        result[f"{layer}.conv_offset.{parameter}" if layer in names else key] = value
    return result


class DeformConv1d(_DeformConv):
    """Deformable convolution of sequences; arguments as :class:`DeformConv2d` with one number per axis.

    ``conv_offset`` has ``G*K`` channels, ``2*G*K`` when modulated.
    """

    _dimensions = 1


class DeformConv2d(_DeformConv):
    """Deformable convolution with its own offset branch; takes the place of ``nn.Conv2d``.

    Parameters ``weight`` and ``bias`` are those of ``nn.Conv2d``. ``conv_offset`` is an ordinary convolution of the
    same kernel, stride, padding and dilation with ``2*G*K`` channels (per group and tap ``y, x``), or ``3*G*K`` when
    modulated (the rest: mask logits). Both start at zero. See :func:`rename_old_keys` for older key names.

    Args:
        in_channels: channels ``C`` of the input.
        out_channels: channels ``O`` of the output.
        kernel_size: an int or ``(y, x)``.
        stride: as in ``nn.Conv2d``.
        padding: as in ``nn.Conv2d``, a number (not ``"same"``).
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
        padding_mode: ``"zeros"`` only: samples outside the map count as 0.
        backend: the backend of the operator, ``None`` for the fastest.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """

    _dimensions = 2


class DeformConv3d(_DeformConv):
    """Deformable convolution of volumes; arguments as :class:`DeformConv2d` with three numbers per axis.

    ``conv_offset`` has ``3*G*K`` channels (per group and tap ``z, y, x``), ``4*G*K`` when modulated.
    """

    _dimensions = 3
