"""Transposed deformable convolution layers that own their offset branch: drop-ins for ``nn.ConvTranspose1d/2d/3d``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dcn import checks
from dcn.nn.tracing import is_traced, recorded
from dcn.ops import deform_conv_transpose1d, deform_conv_transpose2d, deform_conv_transpose3d
from dcn.ops._backends import check_name
from dcn.ops.deform_conv import BACKENDS, BOUNDARIES
from dcn.ops.deform_conv_transpose import output_size as transposed_size

Numbers = int | Sequence[int]
_LAYOUTS = {1: "[N, C, W]", 2: "[N, C, H, W]", 3: "[N, C, D, H, W]"}
_OPS: dict[int, Callable[..., Tensor]] = {
    1: deform_conv_transpose1d,
    2: deform_conv_transpose2d,
    3: deform_conv_transpose3d,
}
_CONVS: dict[int, Callable[..., nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class _DeformConvTranspose(nn.Module):
    """The layer in ``n`` dimensions; the public classes only fix ``n``."""

    _dimensions = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Numbers = 1,
        offset_groups: int = 1,
        modulated: bool = False,
        *,
        offset_kernel_size: int = 3,
        mask_scale: float = 2.0,
        boundary: str = "v2",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        n = self._dimensions
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = checks.int_tuple("kernel_size", kernel_size, n, 1)
        self.stride = checks.int_tuple("stride", stride, n, 1)
        self.padding = checks.int_tuple("padding", padding, n, 0)
        self.output_padding = checks.int_tuple("output_padding", output_padding, n, 0)
        self.dilation = checks.int_tuple("dilation", dilation, n, 1)
        self.offset_groups, self.modulated = offset_groups, modulated
        self.mask_scale, self.boundary, self.backend = mask_scale, boundary, backend
        self._check(bias, offset_kernel_size)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels // groups, *self.kernel_size, **options))
        self.bias = nn.Parameter(torch.empty(out_channels, **options)) if bias else None
        channels = (n + 1 if modulated else n) * offset_groups * prod(self.kernel_size)
        padding_of_branch = offset_kernel_size // 2
        self.conv_offset = _CONVS[n](in_channels, channels, offset_kernel_size, padding=padding_of_branch, **options)
        self.reset_parameters()

    def _check(self, bias: bool, offset_kernel_size: int) -> None:
        checks.whole("in_channels", self.in_channels, 1)
        checks.whole("out_channels", self.out_channels, 1)
        checks.whole("groups", self.groups, 1)
        checks.whole("offset_groups", self.offset_groups, 1)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups: expected a divisor of in_channels={self.in_channels} and out_channels={self.out_channels}, "
                f"got {self.groups}"
            )
        if self.out_channels % self.offset_groups:
            raise ValueError(
                f"offset_groups: expected a divisor of out_channels={self.out_channels}, got {self.offset_groups}"
            )
        if checks.whole("offset_kernel_size", offset_kernel_size, 1) % 2 == 0:
            raise ValueError(f"offset_kernel_size: expected an odd number, got {offset_kernel_size}")
        checks.flag("bias", bias)
        checks.flag("modulated", self.modulated)
        checks.number("mask_scale", self.mask_scale, above=0.0)
        checks.choice("boundary", self.boundary, BOUNDARIES)
        check_name(BACKENDS, self.backend)

    def reset_parameters(self) -> None:
        """Weight and bias as ``nn.ConvTranspose2d`` starts them; the offset branch at zero."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            limit = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -limit, limit)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def offsets(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the offset branch says about ``input``, after the sigmoid.

        Args:
            input: ``[N, C, *size]``.

        Returns:
            offset ``[N, n*G*K, *size]`` in pixels of the output and mask ``[N, G*K, *size]`` in ``(0, mask_scale)``,
            or ``None`` for a layer that is not modulated.
        """
        predicted = self.conv_offset(input)
        if not self.modulated:
            return predicted, None
        count = self._dimensions * self.offset_groups * prod(self.kernel_size)
        return predicted[:, :count], predicted[:, count:].sigmoid() * self.mask_scale

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``[N, C, *size]`` to ``[N, O, *out]``, the sizes of an ordinary transposed convolution.

        Args:
            input: the map; ``[C, *size]`` gives ``[O, *out]``.
            output_size: size of the output, instead of ``output_padding``; as for ``nn.ConvTranspose2d``.

        Raises:
            ValueError: ``input`` has another number of axes or channels than the layer, or ``output_size`` cannot be
                reached.
        """
        if is_traced(self, input):
            return recorded(self, input, output_size)
        if isinstance(input, Tensor) and input.ndim == self._dimensions + 1:
            return self.forward(input[None], output_size)[0]
        checks.ndim("input", input, self._dimensions + 2, _LAYOUTS[self._dimensions])
        if input.shape[1] != self.in_channels:
            raise ValueError(f"input: expected {self.in_channels} channels, got shape {list(input.shape)}")
        more = self.output_padding if output_size is None else self._output_padding(input, output_size)
        offset, mask = self.offsets(input)
        return _OPS[self._dimensions](
            input,
            offset,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            more,
            self.groups,
            self.dilation,
            mask,
            boundary=self.boundary,
            backend=self.backend,
        )

    def _output_padding(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        n = self._dimensions
        requested = checks.int_tuple("output_size", list(output_size)[-n:], n, 1)
        geometry = (self.kernel_size, self.stride, self.padding)
        least = transposed_size(input.shape[2:], *geometry, (0,) * n, self.dilation)
        more = tuple(size - low for size, low in zip(requested, least, strict=True))
        most = tuple(max(pair) - 1 for pair in zip(self.stride, self.dilation, strict=True))
        if any(not 0 <= extra <= limit for extra, limit in zip(more, most, strict=True)):
            high = [low + limit for low, limit in zip(least, most, strict=True)]
            raise ValueError(f"output_size: expected from {list(least)} to {high}, got {list(requested)}")
        return more

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, for ``print``."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        n = self._dimensions
        defaults: tuple[tuple[str, Any], ...] = (
            ("padding", (0,) * n),
            ("output_padding", (0,) * n),
            ("dilation", (1,) * n),
            ("groups", 1),
            ("offset_groups", 1),
            ("modulated", False),
            ("mask_scale", 2.0),
            ("boundary", "v2"),
            ("backend", None),
        )
        text += "".join(f", {name}={getattr(self, name)!r}" for name, usual in defaults if getattr(self, name) != usual)
        return text + (", bias=False" if self.bias is None else "")


class DeformConvTranspose1d(_DeformConvTranspose):
    """Transposed deformable convolution of sequences; arguments as :class:`DeformConvTranspose2d`.

    ``conv_offset`` has ``G*K`` channels, ``2*G*K`` when modulated.
    """

    _dimensions = 1


class DeformConvTranspose2d(_DeformConvTranspose):
    """Transposed deformable convolution with its own offset branch; replaces ``nn.ConvTranspose2d``.

    Parameters ``weight`` and ``bias`` are those of ``nn.ConvTranspose2d``. ``conv_offset`` is an ordinary convolution
    of the input that keeps its size, with ``2*G*K`` channels (per group and tap ``y, x``), or ``3*G*K`` when modulated
    (the rest: mask logits). It starts at zero, so that the layer starts as an ordinary transposed convolution.

    Args:
        in_channels: channels ``C`` of the input.
        out_channels: channels ``O`` of the output.
        kernel_size: an int or ``(y, x)``.
        stride: as in ``nn.ConvTranspose2d``, as are the following four.
        padding: see there.
        output_padding: see there.
        groups: see there.
        bias: see there.
        dilation: see there.
        offset_groups: ``G``, divides ``O``: how many parts of the output channels move on their own.
        modulated: also predict a mask.
        offset_kernel_size: kernel of the offset branch, odd.
        mask_scale: mask = mask_scale * sigmoid(logit); with 2.0 it starts at 1.
        boundary: the rule at the edge of the map, see :func:`dcn.ops.deform_conv_transpose2d`.
        backend: the backend of the operator, ``None`` for the fastest.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Example:
        >>> layer = DeformConvTranspose2d(64, 32, 4, stride=2, padding=1, modulated=True)
        >>> layer(torch.rand(1, 64, 16, 20)).shape
        torch.Size([1, 32, 32, 40])
    """

    _dimensions = 2


class DeformConvTranspose3d(_DeformConvTranspose):
    """Transposed deformable convolution of volumes; arguments as :class:`DeformConvTranspose2d`.

    ``conv_offset`` has ``3*G*K`` channels (per group and tap ``z, y, x``), ``4*G*K`` when modulated.
    """

    _dimensions = 3
