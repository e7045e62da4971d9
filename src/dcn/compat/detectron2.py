"""``detectron2.layers`` by this package's operators: change the import line, keep the rest of the program.

    from dcn.compat.detectron2 import DeformConv, ModulatedDeformConv   # was: from detectron2.layers import ...

Argument lists and state-dict keys (``weight``, ``bias``, ``norm.*``) are detectron2's. Both layers run forward and
backward on the CPU too, with any number of groups and any batch size. ``ROIAlign``, ``roi_align``, ``nms`` and
``batched_nms`` are there too, which detectron2 takes from torchvision. :func:`install` gives a detectron2 without its
compiled extension the deformable convolutions of this package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dcn.compat import _layers
from dcn.compat._layers import Refused, Size
from dcn.compat._stand_in import stand_in
from dcn.compat.torchvision import batched_nms, nms, roi_align

__all__ = [
    "DeformConv",
    "ModulatedDeformConv",
    "ROIAlign",
    "batched_nms",
    "deform_conv",
    "install",
    "modulated_deform_conv",
    "nms",
    "roi_align",
]

Activation = Callable[[Tensor], Tensor]


def deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deformable_groups: int = 1,
    im2col_step: int = 64,
) -> Tensor:
    """``detectron2.layers.deform_conv.deform_conv``: ``[N, O, H_out, W_out]``; ``im2col_step`` has no effect.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    return _layers.conv(input, offset, weight, None, None, (stride, padding, dilation), (groups, deformable_groups))


def modulated_deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Tensor:
    """``detectron2.layers.deform_conv.modulated_deform_conv``: ``[N, O, H_out, W_out]``.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    return _layers.conv(input, offset, weight, bias, mask, (stride, padding, dilation), (groups, deformable_groups))


class _Conv(nn.Module):
    """What both layers share: parameters, and the norm and activation behind the convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        _layers.check_groups(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _layers.pair("kernel_size", kernel_size), _layers.pair("stride", stride)
        self.padding, self.dilation = _layers.pair("padding", padding), _layers.pair("dilation", dilation)
        self.deformable_groups, self.norm, self.activation = deformable_groups, norm, activation
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def _finish(self, x: Tensor) -> Tensor:
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        fields = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        text = ", ".join(f"{name}={getattr(self, name)}" for name in (*fields, "deformable_groups"))
        return f"{text}, bias={self.bias is not None}"


class DeformConv(_Conv):
    """``detectron2.layers.DeformConv``: the offsets come from the caller. Keys: ``weight``, ``norm.*``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
        activation: Activation | None = None,
    ) -> None:
        if bias:
            raise Refused(f"bias: expected False, got {bias!r}; DeformConv has none")
        geometry = (stride, padding, dilation, groups, deformable_groups)
        super().__init__(in_channels, out_channels, kernel_size, *geometry, False, norm, activation)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """``[N, O, H_out, W_out]``, after norm and activation."""
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deformable_groups)
        return self._finish(deform_conv(x, offset, self.weight, *geometry))


class ModulatedDeformConv(_Conv):
    """``detectron2.layers.ModulatedDeformConv``: offsets and mask come from the caller. Keys also ``bias``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
        activation: Activation | None = None,
    ) -> None:
        geometry = (stride, padding, dilation, groups, deformable_groups)
        super().__init__(in_channels, out_channels, kernel_size, *geometry, bias, norm, activation)
        self.with_bias = bias

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """``[N, O, H_out, W_out]``, after norm and activation."""
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deformable_groups)
        return self._finish(modulated_deform_conv(x, offset, mask, self.weight, self.bias, *geometry))


class ROIAlign(nn.Module):
    """``detectron2.layers.ROIAlign``: boxes ``[K, 5]`` (image, x1, y1, x2, y2), shifted by half a pixel if aligned.

    Args:
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        sampling_ratio: samples per bin and axis; 0: ``ceil(bin size)``.
        aligned: ``False`` is the rule of detectron.
    """

    def __init__(self, output_size: Size, spatial_scale: float, sampling_ratio: int, aligned: bool = True) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale, self.sampling_ratio, self.aligned = spatial_scale, sampling_ratio, aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """``[K, C, rows, columns]`` of a map ``[N, C, H, W]``.

        Raises:
            ValueError: (also an ``AssertionError``) ``rois`` has not five columns.
        """
        if rois.ndim != 2 or rois.shape[1] != 5:
            raise Refused(f"rois: expected [K, 5] (image, x1, y1, x2, y2), got shape {list(rois.shape)}")
        boxes = rois.to(input.dtype)
        return roi_align(input, boxes, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def install(*, replace: bool = False) -> tuple[str, ...]:
    """Let detectron2's ``DeformConv`` and ``ModulatedDeformConv`` compute here where its extension does not load.

    Call it before the program imports detectron2's layers. detectron2's own classes stay: configurations and
    checkpoints work as they are. A working extension is left alone. Rotated boxes and the fast COCO evaluation, which
    are compiled too, cannot be called.

    Args:
        replace: compute here with a working extension too.

    Returns:
        The functions that were replaced; none where detectron2 is not installed.
    """
    users = {"detectron2.layers.deform_conv": ("deform_conv", "modulated_deform_conv")}
    return stand_in("detectron2._C", users, globals(), replace=replace)
