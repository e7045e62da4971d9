"""The layer of FlashInternImage: DCNv4 with its projections and the branch that gives offsets and masks."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn

from dcn import checks
from dcn.nn.dcnv3 import check_layer, mixed
from dcn.nn.tracing import is_traced, recorded
from dcn.ops import dcnv4
from dcn.ops._backends import check_name
from dcn.ops._dcnv3 import BACKENDS


class DCNv4(nn.Module):
    """``[N, H*W, C]`` to the same shape: Xiong et al., "Efficient Deformable ConvNets" (CVPR 2024), section 3.

    Argument names, state-dict keys and initialisation are those of the original module: ``offset_mask`` gives offsets
    and masks from the input or from its depthwise convolution ``offset_mask_dw``; ``value_proj`` and ``output_proj`` go
    around the operator. Masks have no softmax and start at 0, so a new layer puts out the bias of ``output_proj``.
    Unlike the original it takes any kernel size and number of channels, computes gradients in any type, and refuses
    keywords that it does not know.

    Args:
        channels: ``C``.
        kernel_size: of the sampling pattern.
        stride: 1; the layer keeps the size of the map.
        pad: ``dilation * (kernel_size - 1) / 2``.
        dilation: distance of neighbouring taps.
        group: groups of channels with offsets of their own, a divisor of ``channels``.
        offset_scale: scales the whole pattern, see :func:`dcn.ops.dcnv3`.
        dw_kernel_size: of the depthwise convolution before ``offset_mask``, an odd number, or ``None`` for none.
        center_feature_scale: mix the sampled with the unsampled map by a share per location and group.
        remove_center: leave out the centre tap.
        output_bias: whether ``output_proj`` has a bias.
        without_pointwise: leave out both projections.
        backend: the backend of the operator, ``None`` for the fastest.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Example:
        >>> layer = DCNv4(channels=64, group=4)
        >>> layer(torch.randn(1, 56 * 40, 64), shape=(56, 40)).shape
        torch.Size([1, 2240, 64])
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        dw_kernel_size: int | None = None,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        output_bias: bool = True,
        without_pointwise: bool = False,
        *,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        check_layer(channels, group, (kernel_size, stride, pad, dilation), remove_center)
        if dw_kernel_size is not None and checks.whole("dw_kernel_size", dw_kernel_size, 1) % 2 == 0:
            raise ValueError(
                f"dw_kernel_size: expected an odd number, which keeps the size of the map, got {dw_kernel_size}"
            )
        for name, value in (("center_feature_scale", center_feature_scale), ("output_bias", output_bias)):
            checks.flag(name, value)
        check_name(BACKENDS, backend)
        self.channels, self.kernel_size, self.dw_kernel_size = channels, kernel_size, dw_kernel_size
        self.stride, self.pad, self.dilation, self.group = stride, pad, dilation, group
        self.offset_scale = checks.number("offset_scale", offset_scale)
        self.center_feature_scale, self.remove_center, self.backend = center_feature_scale, remove_center, backend
        self.without_pointwise = checks.flag("without_pointwise", without_pointwise)
        owned = 3 * group * (kernel_size * kernel_size - remove_center)
        self.offset_mask = nn.Linear(channels, -(-owned // 8) * 8)
        if dw_kernel_size is not None:
            pad = (dw_kernel_size - 1) // 2
            self.offset_mask_dw = nn.Conv2d(channels, channels, dw_kernel_size, padding=pad, groups=channels)
        if not without_pointwise:
            self.value_proj = nn.Linear(channels, channels)
            self.output_proj = nn.Linear(channels, channels, bias=output_bias)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(group))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Offsets and masks start at 0; projections are Xavier uniform with bias 0."""
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        for projection in () if self.without_pointwise else (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def _size(self, input: Tensor, shape: tuple[int, int] | None) -> tuple[int, int]:
        checks.ndim("input", input, 3, "[N, H*W, C] (flatten a map [N, C, H, W] by .flatten(2).transpose(1, 2))")
        if input.shape[2] != self.channels:
            raise ValueError(f"input: expected [N, H*W, {self.channels}], got shape {list(input.shape)}")
        height, width = (isqrt(input.shape[1]),) * 2 if shape is None else (int(size) for size in shape)
        if height * width != input.shape[1]:
            rule = "a square map, or shape=(H, W)" if shape is None else f"{height} * {width} locations"
            raise ValueError(f"shape: expected {rule}, got {input.shape[1]} locations in input {list(input.shape)}")
        return height, width

    def forward(self, input: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """``[N, H*W, C]`` to ``[N, H*W, C]``.

        Args:
            input: the flattened map.
            shape: ``(H, W)``; ``None`` for a square map.

        Raises:
            ValueError: ``input`` has another number of axes or channels, or ``shape`` does not fit.
        """
        if is_traced(self, input):
            return recorded(self, input, shape)
        height, width = self._size(input, shape)
        source = input.unflatten(1, (height, width))
        value = source if self.without_pointwise else self.value_proj(source)
        features = source
        if self.dw_kernel_size is not None:
            features = self.offset_mask_dw(source.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        sampled = dcnv4(
            value,
            self.offset_mask(features),
            self.kernel_size,
            self.stride,
            self.pad,
            self.dilation,
            self.group,
            self.offset_scale,
            self.remove_center,
            backend=self.backend,
        )
        if self.center_feature_scale:
            weight, bias = self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
            sampled = mixed(sampled, value, nn.functional.linear(sampled, weight, bias).sigmoid())
        return (sampled if self.without_pointwise else self.output_proj(sampled)).flatten(1, 2)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        names = ("channels", "kernel_size", "pad", "dilation", "group", "offset_scale", "dw_kernel_size")
        text = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        flags = ("center_feature_scale", "remove_center", "without_pointwise")
        return text + "".join(f", {name}=True" for name in flags if getattr(self, name))
