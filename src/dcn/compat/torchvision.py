"""``torchvision.ops`` by this package's operators: change the import line, keep the rest of the program.

    from dcn.compat.torchvision import DeformConv2d, batched_nms, roi_align     # was: from torchvision.ops import ...

Names, argument lists, defaults, results and state-dict keys are those of torchvision 0.29. Three things differ on
purpose: a wrong argument raises a ``ValueError`` that names it (torchvision: ``RuntimeError``); autocast computes in
half precision (torchvision casts to float32); and the gradient of an offset that puts a tap exactly on coordinate -1 is
0, as in mmcv and in the original code (torchvision: a one-sided slope).

:func:`install` serves programs whose imports you cannot change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn

from dcn import checks, ops
from dcn.compat._torchvision_boxes import (
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    remove_small_boxes,
)
from dcn.compat._torchvision_kernels import install
from dcn.compat._torchvision_levels import MultiScaleRoIAlign

__all__ = [
    "DeformConv2d",
    "MultiScaleRoIAlign",
    "PSRoIAlign",
    "PSRoIPool",
    "RoIAlign",
    "RoIPool",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "deform_conv2d",
    "install",
    "nms",
    "ps_roi_align",
    "ps_roi_pool",
    "remove_small_boxes",
    "roi_align",
    "roi_pool",
]

Size = int | Sequence[int]
Boxes = Tensor | list[Tensor]


def _pair(value: Size) -> tuple[int, int]:
    """One number or two as torchvision takes them: a sequence of one number counts twice."""
    values = (value,) if isinstance(value, (int, Integral)) else tuple(value)
    return (int(values[0]), int(values[-1])) if len(values) in (1, 2) else _refuse_size(value)


def _refuse_size(value: Size) -> tuple[int, int]:
    raise ValueError(f"expected one int or two, got {value!r}")


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = (1, 1),
    padding: Size = (0, 0),
    dilation: Size = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """``torchvision.ops.deform_conv2d``: deformable convolution, modulated with ``mask``.

    Args:
        input: ``[N, C, H, W]``.
        offset: ``[N, 2*G*K, H_out, W_out]``, per group and tap first y, then x.
        weight: ``[O, C/groups, kh, kw]``.
        bias: ``[O]``.
        stride: an int or ``(y, x)``.
        padding: an int or ``(y, x)``.
        dilation: an int or ``(y, x)``.
        mask: ``[N, G*K, H_out, W_out]``.

    Returns:
        ``[N, O, H_out, W_out]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return ops.deform_conv2d(input, offset, weight, bias, _pair(stride), _pair(padding), _pair(dilation), mask)


class DeformConv2d(nn.Module):
    """``torchvision.ops.DeformConv2d``: the offsets (and the mask) come from the caller. Keys: ``weight``, ``bias``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name}: expected a multiple of groups={groups}, got {channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.padding, self.dilation = _pair(padding), _pair(dilation)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as ``nn.Conv2d`` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            limit = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -limit, limit)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[N, O, H_out, W_out]``; see :func:`deform_conv2d`.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask=mask)

    def __repr__(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}" if self.padding != (0, 0) else ""
        text += f", dilation={self.dilation}" if self.dilation != (1, 1) else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        return f"{type(self).__name__}({text}{', bias=False' if self.bias is None else ''})"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """``torchvision.ops.nms``: indices ``[K]`` of the boxes ``[N, 4]`` that stay, best first.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return ops.nms(boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """``torchvision.ops.batched_nms``: only boxes with the same entry in ``idxs`` suppress each other.

    The classes are kept apart exactly; torchvision moves them apart by a number added to the coordinates, which costs
    float32 digits.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if idxs.is_floating_point():
        idxs = idxs.long()
    return ops.nms(boxes, scores, iou_threshold, idxs)


def _boxes_like(boxes: Boxes, input: Tensor) -> Boxes:
    """Boxes in the type of the map at least: torchvision wants one type, half-precision maps keep wider boxes."""
    if isinstance(boxes, Tensor):
        return boxes if boxes.is_floating_point() else boxes.to(input.dtype)
    return [entry if entry.is_floating_point() else entry.to(input.dtype) for entry in boxes]


def roi_align(
    input: Tensor,
    boxes: Boxes,
    output_size: Size,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """``torchvision.ops.roi_align``.

    Args:
        input: ``[N, C, H, W]``.
        boxes: ``[K, 5]`` (image, x1, y1, x2, y2) or one ``[L, 4]`` per image.
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        sampling_ratio: samples per bin and axis; 0 or less: ``ceil(bin size)``.
        aligned: shift by half a pixel (the better-aligned rule); no least RoI size then.

    Returns:
        ``[K, C, rows, columns]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return ops.roi_align(
        input, _boxes_like(boxes, input), _pair(output_size), float(spatial_scale), int(sampling_ratio), aligned
    )


def roi_pool(input: Tensor, boxes: Boxes, output_size: Size, spatial_scale: float = 1.0) -> Tensor:
    """``torchvision.ops.roi_pool``: RoI max pooling, ``[K, C, rows, columns]``; arguments as :func:`roi_align`.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return ops.roi_pool(input, _boxes_like(boxes, input), _pair(output_size), float(spatial_scale))


def ps_roi_align(
    input: Tensor, boxes: Boxes, output_size: Size, spatial_scale: float = 1.0, sampling_ratio: int = -1
) -> Tensor:
    """``torchvision.ops.ps_roi_align``: ``[K, C / (rows * columns), rows, columns]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return ops.ps_roi_align(
        input, _boxes_like(boxes, input), _pair(output_size), float(spatial_scale), int(sampling_ratio)
    )


def ps_roi_pool(input: Tensor, boxes: Boxes, output_size: Size, spatial_scale: float = 1.0) -> Tensor:
    """``torchvision.ops.ps_roi_pool``: ``[K, C / (rows * columns), rows, columns]``.

    The rounding is torchvision's (after scaling); R-FCN's own is the default of :func:`dcn.ops.ps_roi_pool`.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    size, scale = _pair(output_size), float(spatial_scale)
    return ops.ps_roi_pool(input, _boxes_like(boxes, input), size, scale, rounding="after_scale")


class _Pooling(nn.Module):
    """A RoI layer without parameters that prints like torchvision's."""

    def __init__(self, output_size: Size, spatial_scale: float) -> None:
        super().__init__()
        checks.number("spatial_scale", spatial_scale, above=0.0)
        self.output_size, self.spatial_scale = output_size, spatial_scale

    def __repr__(self) -> str:
        fields = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
        text = ", ".join(f"{name}={getattr(self, name)}" for name in fields if hasattr(self, name))
        return f"{type(self).__name__}({text})"


class RoIAlign(_Pooling):
    """``torchvision.ops.RoIAlign``; see :func:`roi_align`."""

    def __init__(self, output_size: Size, spatial_scale: float, sampling_ratio: int, aligned: bool = False) -> None:
        super().__init__(output_size, spatial_scale)
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def forward(self, input: Tensor, rois: Boxes) -> Tensor:
        """``[K, C, rows, columns]``."""
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)


class RoIPool(_Pooling):
    """``torchvision.ops.RoIPool``; see :func:`roi_pool`."""

    def forward(self, input: Tensor, rois: Boxes) -> Tensor:
        """``[K, C, rows, columns]``."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)


class PSRoIAlign(_Pooling):
    """``torchvision.ops.PSRoIAlign``; see :func:`ps_roi_align`."""

    def __init__(self, output_size: Size, spatial_scale: float, sampling_ratio: int) -> None:
        super().__init__(output_size, spatial_scale)
        self.sampling_ratio = sampling_ratio

    def forward(self, input: Tensor, rois: Boxes) -> Tensor:
        """``[K, C / (rows * columns), rows, columns]``."""
        return ps_roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)


class PSRoIPool(_Pooling):
    """``torchvision.ops.PSRoIPool``; see :func:`ps_roi_pool`."""

    def forward(self, input: Tensor, rois: Boxes) -> Tensor:
        """``[K, C / (rows * columns), rows, columns]``."""
        return ps_roi_pool(input, rois, self.output_size, self.spatial_scale)
