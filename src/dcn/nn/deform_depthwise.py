"""A depthwise convolution whose samples move, with the cheap branches of DCNv3 and DCNv4.

The offset branch of :class:`dcn.nn.DeformConv2d` is a full convolution: over ``C`` channels it costs ``3*G*K`` times
what a depthwise convolution costs. InternImage (DCNv3) gives offsets and masks by a depthwise convolution and a linear
map, FlashInternImage (DCNv4) in one step with masks that have no bound. The weights of the convolution stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dcn import checks
from dcn.nn.deform_conv import PADDING_MODES, Numbers, PaddingMode, padding_sides
from dcn.nn.tracing import is_traced, recorded
from dcn.ops import deform_conv2d
from dcn.ops._backends import check_name
from dcn.ops.deform_conv import BACKENDS

STYLES = ("dcnv3", "dcnv4")


class _NormOverChannels(nn.LayerNorm):
    """``nn.LayerNorm`` over the channels of ``[N, C, H, W]``."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class DeformDepthwiseConv2d(nn.Module):
    """``[N, C, H, W]`` to ``[N, C, H_out, W_out]``; replaces a depthwise ``nn.Conv2d``.

    ``out[c, p] = sum_k weight[c, k] * mask[g, k, p] * input[c, p*stride - padding + k*dilation + offset[g, k, p]]``

    with group ``g`` of channel ``c``. ``conv_offset`` (depthwise convolution, for DCNv3's style layer norm and GELU,
    1x1 convolution that starts at zero) gives offsets (per group and tap ``y, x``) and masks: DCNv3's are a softmax
    over the taps times ``K``, DCNv4's are 1 plus any number. Both start at 1 with offsets 0: an ordinary convolution.

    Args:
        channels: of the input and the output.
        kernel_size: an int or ``(y, x)``.
        stride: as in ``nn.Conv2d``.
        padding: as in ``nn.Conv2d``, ``"same"`` and ``"valid"`` too.
        dilation: as in ``nn.Conv2d``.
        bias: whether the layer has one.
        offset_groups: how many parts of the channels move on their own, a divisor of ``channels``.
        style: ``"dcnv3"`` or ``"dcnv4"``.
        padding_mode: as in :class:`dcn.nn.DeformConv2d`.
        backend: the backend of the operator, ``None`` for the fastest.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Example:
        >>> layer = DeformDepthwiseConv2d(64, 5, padding=2, offset_groups=4, style="dcnv4")
        >>> layer(torch.rand(1, 64, 16, 20)).shape
        torch.Size([1, 64, 16, 20])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        bias: bool = True,
        offset_groups: int = 1,
        style: str = "dcnv3",
        *,
        padding_mode: PaddingMode = "zeros",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = self.groups = checks.whole("channels", channels, 1)
        if channels % checks.whole("offset_groups", offset_groups, 1):
            raise ValueError(f"offset_groups: expected a divisor of channels={channels}, got {offset_groups}")
        checks.flag("bias", bias)
        checks.choice("style", style, STYLES)
        checks.choice("padding_mode", padding_mode, PADDING_MODES)
        check_name(BACKENDS, backend)
        self.kernel_size = checks.int_tuple("kernel_size", kernel_size, 2, 1)
        self.stride = checks.int_tuple("stride", stride, 2, 1)
        self.dilation = checks.int_tuple("dilation", dilation, 2, 1)
        self.offset_groups, self.style, self.padding_mode, self.backend = offset_groups, style, padding_mode, backend
        sides = padding_sides(padding, 2, self.kernel_size, self.dilation)
        self.padding = tuple(before for before, _ in sides)
        self.uneven = any(before != behind for before, behind in sides)
        padded = self.uneven or padding_mode != "zeros"
        self._pad = [p for pair in reversed(sides) for p in pair] if padded else None
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        conv = nn.Conv2d(channels, channels, self._pair(self.kernel_size), groups=channels, bias=bias, **like)
        self.weight, self.bias = conv.weight, conv.bias
        self.conv_offset = self._branch(like)

    @staticmethod
    def _pair(values: tuple[int, ...]) -> tuple[int, int]:
        return values[0], values[1]

    def _branch(self, like: dict[str, Any]) -> nn.Sequential:
        channels, taps = self.in_channels, self.kernel_size[0] * self.kernel_size[1]
        depthwise = nn.Conv2d(
            channels,
            channels,
            self._pair(self.kernel_size),
            self._pair(self.stride),
            "same" if self.uneven else self._pair(self.padding),
            self._pair(self.dilation),
            channels,
            padding_mode=self.padding_mode,
            **like,
        )
        last = nn.Conv2d(channels, 3 * self.offset_groups * taps, 1, **like)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        between = [_NormOverChannels(channels, eps=1e-6, **like), nn.GELU()] if self.style == "dcnv3" else []
        return nn.Sequential(depthwise, *between, last)

    def offsets(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Offset ``[N, 2*G*K, *out]`` in pixels (y, x) and mask ``[N, G*K, *out]`` for ``input [N, C, H, W]``."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        predicted = self.conv_offset(input)
        offset, mask = predicted.split([2 * self.offset_groups * taps, self.offset_groups * taps], 1)
        if self.style == "dcnv4":
            return offset, mask + 1
        return offset, taps * mask.unflatten(1, (self.offset_groups, taps)).softmax(2).flatten(1, 2)

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H_out, W_out]``, the sizes of an ordinary convolution; or both without ``N``.

        Raises:
            ValueError: ``input`` has another number of axes or channels.
        """
        if is_traced(self, input):
            return recorded(self, input)
        if isinstance(input, Tensor) and input.ndim == 3:
            return self.forward(input[None])[0]
        checks.ndim("input", input, 4, "[N, C, H, W]")
        if input.shape[1] != self.in_channels:
            raise ValueError(f"input: expected {self.in_channels} channels, got shape {list(input.shape)}")
        offset, mask = self.offsets(input)
        padding = self.padding
        if self._pad is not None:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input, padding = nn.functional.pad(input, self._pad, mode), (0, 0)
        geometry = (self.stride, padding, self.dilation)
        return deform_conv2d(input, offset, self.weight, self.bias, *geometry, mask, backend=self.backend)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        text = f"{self.in_channels}, kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        text += f", dilation={self.dilation}, offset_groups={self.offset_groups}, style={self.style!r}"
        return text + (", bias=False" if self.bias is None else "")
