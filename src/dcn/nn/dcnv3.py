"""The layer of InternImage: DCNv3 with its projections and the branch that gives offsets and masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcn import checks
from dcn.nn.tracing import is_traced, recorded
from dcn.ops import dcnv3
from dcn.ops._backends import check_name
from dcn.ops._dcnv3 import BACKENDS

ACTIVATIONS: dict[str, type[nn.Module]] = {"ReLU": nn.ReLU, "SiLU": nn.SiLU, "GELU": nn.GELU}
NORMS = ("LN", "BN")


class ChannelsLast(nn.Module):
    """``[N, C, H, W]`` to ``[N, H, W, C]``. No parameters: it keeps the index of a key."""

    def forward(self, input: Tensor) -> Tensor:
        """The same numbers with the channels innermost."""
        return input.permute(0, 2, 3, 1)


def check_layer(channels: int, group: int, geometry: tuple[int, int, int, int], remove_center: bool) -> None:
    """Refuse what neither DCNv3 nor DCNv4 can be, a layer that changes the size of the map included.

    Args:
        channels: of the input and the output.
        group: groups of channels.
        geometry: kernel_size, stride, pad, dilation.
        remove_center: whether the centre tap is left out.

    Raises:
        ValueError: naming the argument.
    """
    kernel, stride, pad, dilation = geometry
    checks.whole("channels", channels, 1)
    if checks.whole("group", group, 1) and channels % group:
        raise ValueError(f"group: expected a divisor of channels={channels}, got {group}")
    for name, value, least in (("kernel_size", kernel, 1), ("stride", stride, 1), ("dilation", dilation, 1)):
        checks.whole(name, value, least)
    checks.whole("pad", pad, 0)
    if checks.flag("remove_center", remove_center) and kernel == 1:
        raise ValueError("remove_center: expected False with kernel_size 1, got True; no tap would be left")
    if stride != 1 or 2 * pad != dilation * (kernel - 1):
        raise ValueError(
            "stride, pad: expected a layer that keeps the size of the map (stride 1, pad = dilation * (kernel_size - 1)"
            f" / 2), got kernel_size {kernel}, stride {stride}, pad {pad}, dilation {dilation}; its offsets come from "
            "the input, location by location. Use dcn.ops.dcnv3 or dcnv4 for other sizes"
        )


def mixed(output: Tensor, value: Tensor, share: Tensor) -> Tensor:
    """``output * (1 - share) + value * share``, with a share ``[..., G]`` per group of channels."""
    depth = output.shape[-1] // share.shape[-1]
    share = share.repeat_interleave(depth, -1)
    return output * (1 - share) + value * share


class DCNv3(nn.Module):
    """``[N, H, W, C]`` to the same shape: Wang et al., "InternImage" (CVPR 2023), section 3.1.

    Argument names, state-dict keys and initialisation are those of the original modules ``DCNv3`` and
    ``DCNv3_pytorch``: ``dw_conv`` (depthwise convolution, norm, activation) feeds ``offset`` and ``mask``, whose
    softmax over the taps the operator computes; ``input_proj`` and ``output_proj`` go around it.

    Args:
        channels: ``C``.
        kernel_size: of the sampling pattern.
        dw_kernel_size: of the depthwise convolution, an odd number; ``None``: ``kernel_size``.
        stride: 1; the layer keeps the size of the map.
        pad: ``dilation * (kernel_size - 1) / 2``.
        dilation: distance of neighbouring taps.
        group: groups of channels with offsets of their own, a divisor of ``channels``.
        offset_scale: scales the whole pattern, see :func:`dcn.ops.dcnv3`.
        act_layer: ``"GELU"``, ``"SiLU"`` or ``"ReLU"``.
        norm_layer: ``"LN"`` or ``"BN"``.
        center_feature_scale: mix the sampled with the unsampled map by a share per location and group.
        remove_center: leave out the centre tap.
        backend: the backend of the operator, ``None`` for the fastest.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Example:
        >>> layer = DCNv3(channels=64, group=4)
        >>> layer(torch.randn(1, 56, 56, 64)).shape
        torch.Size([1, 56, 56, 64])
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        dw_kernel_size: int | None = None,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        act_layer: str = "GELU",
        norm_layer: str = "LN",
        center_feature_scale: bool = False,
        remove_center: bool = False,
        *,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        check_layer(channels, group, (kernel_size, stride, pad, dilation), remove_center)
        depthwise = checks.whole("dw_kernel_size", kernel_size if dw_kernel_size is None else dw_kernel_size, 1)
        if depthwise % 2 == 0:
            raise ValueError(
                f"dw_kernel_size: expected an odd number, which keeps the size of the map, got {depthwise}"
            )
        checks.choice("act_layer", act_layer, tuple(ACTIVATIONS))
        checks.choice("norm_layer", norm_layer, NORMS)
        checks.flag("center_feature_scale", center_feature_scale)
        check_name(BACKENDS, backend)
        self.channels, self.kernel_size, self.dw_kernel_size = channels, kernel_size, depthwise
        self.stride, self.pad, self.dilation, self.group = stride, pad, dilation, group
        self.offset_scale = checks.number("offset_scale", offset_scale)
        self.center_feature_scale, self.remove_center, self.backend = center_feature_scale, remove_center, backend
        norm = [ChannelsLast(), nn.LayerNorm(channels, eps=1e-6)]
        if norm_layer == "BN":
            norm = [nn.BatchNorm2d(channels), ChannelsLast()]
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, depthwise, padding=(depthwise - 1) // 2, groups=channels),
            nn.Sequential(*norm),
            ACTIVATIONS[act_layer](),
        )
        taps = kernel_size * kernel_size - remove_center
        self.offset = nn.Linear(channels, group * taps * 2)
        self.mask = nn.Linear(channels, group * taps)
        self.input_proj, self.output_proj = nn.Linear(channels, channels), nn.Linear(channels, channels)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(group))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Offsets start at 0, masks at 1/K; projections are Xavier uniform with bias 0."""
        for branch in (self.offset, self.mask):
            nn.init.zeros_(branch.weight)
            nn.init.zeros_(branch.bias)
        for projection in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, input: Tensor) -> Tensor:
        """``[N, H, W, C]`` to ``[N, H, W, C]``.

        Raises:
            ValueError: ``input`` has another number of axes or channels.
        """
        if is_traced(self, input):
            return recorded(self, input)
        checks.ndim("input", input, 4, "[N, H, W, C]")
        if input.shape[3] != self.channels:
            raise ValueError(
                f"input: expected [N, H, W, {self.channels}], got shape {list(input.shape)}; is it channels-last?"
            )
        value = self.input_proj(input)
        features = self.dw_conv(input.permute(0, 3, 1, 2))
        sampled = dcnv3(
            value,
            self.offset(features),
            self.mask(features),
            self.kernel_size,
            self.stride,
            self.pad,
            self.dilation,
            self.group,
            self.offset_scale,
            self.remove_center,
            softmax=True,
            backend=self.backend,
        )
        if self.center_feature_scale:
            weight, bias = self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
            sampled = mixed(sampled, value, nn.functional.linear(features, weight, bias).sigmoid())
        return self.output_proj(sampled)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        names = ("channels", "kernel_size", "dw_kernel_size", "pad", "dilation", "group", "offset_scale")
        text = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return text + "".join(
            f", {name}=True" for name in ("center_feature_scale", "remove_center") if getattr(self, name)
        )
