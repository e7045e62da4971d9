"""``mmcv.ops`` by this package's operators: change the import line, keep the rest of the program.

    from dcn.compat.mmcv import ModulatedDeformConv2dPack, batched_nms      # was: from mmcv.ops import ...

Argument lists, defaults, return values and state-dict keys are mmcv 2's, and the old names of arguments
(``deformable_groups``, ``iou_thr``, ``out_size``, ``sample_num``) are accepted. Everything runs on the CPU and on GPUs,
forward and backward, RoI pooling included. Differences:

* any batch size: ``im2col_step`` is refused only where it was given and does not divide the batch, as in mmcv's tests;
* deformable RoI pooling's offset gradient follows its forward pass everywhere (mmcv's does not at the lower border);
* ``batched_nms`` keeps classes apart exactly instead of by a number added to the coordinates.

Programs that cannot be changed, such as mmdetection: :func:`install` gives an mmcv without compiled operators (the
package ``mmcv-lite``, or one built for another torch) those of this package.

Checkpoints of mmcv's first version, whose offset branch lies beside the layer (``conv2_offset.weight``), load after
:func:`dcn.nn.rename_old_keys`. A wrong argument raises an error that is both a ``ValueError`` and an
``AssertionError``.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from dcn import ops
from dcn.compat import _layers
from dcn.compat._layers import Refused, Size
from dcn.compat._mmcv_attention import (
    MultiScaleDeformableAttention,
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from dcn.compat._mmcv_functions import masked_conv2d, sigmoid_focal_loss
from dcn.compat._mmcv_nms import batched_nms, nms, soft_nms
from dcn.compat._mmcv_points import (
    SimpleRoIAlign,
    bbox_overlaps,
    bilinear_grid_sample,
    point_sample,
    rel_roi_point_to_rel_img_point,
)
from dcn.compat._mmcv_roi import RoIAlign, RoIPool, roi_align, roi_pool
from dcn.compat._stand_in import stand_in

__all__ = [
    "DeformConv2d",
    "DeformConv2dFunction",
    "DeformConv2dPack",
    "DeformRoIPool",
    "DeformRoIPoolFunction",
    "DeformRoIPoolPack",
    "ModulatedDeformConv2d",
    "ModulatedDeformConv2dFunction",
    "ModulatedDeformConv2dPack",
    "ModulatedDeformRoIPoolPack",
    "MultiScaleDeformableAttention",
    "MultiScaleDeformableAttnFunction",
    "RoIAlign",
    "RoIAlignFunction",
    "RoIPool",
    "RoIPoolFunction",
    "SimpleRoIAlign",
    "batched_nms",
    "bbox_overlaps",
    "bilinear_grid_sample",
    "deform_conv2d",
    "deform_roi_pool",
    "install",
    "masked_conv2d",
    "modulated_deform_conv2d",
    "multi_scale_deformable_attn_pytorch",
    "nms",
    "point_sample",
    "rel_roi_point_to_rel_img_point",
    "roi_align",
    "roi_pool",
    "sigmoid_focal_loss",
    "soft_nms",
]

_USUAL_STEP = 32

_USERS = {
    "bbox": ("bbox_overlaps",),
    "deform_conv": ("deform_conv2d", "DeformConv2dFunction"),
    "deform_roi_pool": ("deform_roi_pool", "DeformRoIPoolFunction"),
    "focal_loss": ("sigmoid_focal_loss",),
    "masked_conv": ("masked_conv2d",),
    "modulated_deform_conv": ("modulated_deform_conv2d", "ModulatedDeformConv2dFunction"),
    "multi_scale_deform_attn": ("MultiScaleDeformableAttnFunction", "multi_scale_deformable_attn_pytorch"),
    "nms": ("batched_nms", "nms", "soft_nms"),
    "roi_align": ("roi_align", "RoIAlignFunction"),
    "roi_pool": ("roi_pool", "RoIPoolFunction"),
    "saconv": ("deform_conv2d",),
}
"""What the modules of ``mmcv.ops`` call by these names."""


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = _USUAL_STEP,
) -> Tensor:
    """``mmcv.ops.deform_conv2d``.

    Args:
        input: ``[N, C, H, W]``; cast to the type of ``offset``.
        offset: ``[N, 2*deform_groups*kh*kw, H_out, W_out]``, per group and tap first y, then x.
        weight: ``[O, C/groups, kh, kw]``.
        stride: an int or ``(y, x)``.
        padding: an int or ``(y, x)``.
        dilation: an int or ``(y, x)``.
        groups: groups of channels.
        deform_groups: offset groups.
        bias: must be ``False``.
        im2col_step: has no effect; must divide the batch where it is not 32.

    Returns:
        ``[N, O, H_out, W_out]``.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    if bias is not False:
        raise Refused(f"bias: expected False, got {bias!r}; add it to the output, or use modulated_deform_conv2d")
    step = min(im2col_step, input.shape[0])
    if im2col_step != _USUAL_STEP and step and input.shape[0] % step:
        raise Refused(
            f"im2col_step: expected a divisor of the batch size {input.shape[0]}, got {im2col_step}; leave it out, "
            "it has no effect here"
        )
    return _layers.conv(input, offset, weight, None, None, (stride, padding, dilation), (groups, deform_groups))


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """``mmcv.ops.modulated_deform_conv2d``; arguments as :func:`deform_conv2d`, ``mask [N, deform_groups*kh*kw, ...]``.

    An offset and a mask that are larger than the output are read as mmcv reads them: by their memory, as if the numbers
    of a map as large as the output stood at the front of each image. DyHead gives such offsets; a warning says so.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    geometry, all_groups = (stride, padding, dilation), (groups, deform_groups)
    try:
        return _layers.conv(input, offset, weight, bias, mask, geometry, all_groups)
    except ValueError:
        size = _layers.smaller_output(input, offset, mask, weight, geometry)
        if size is None:
            raise
    warnings.warn(
        f"modulated_deform_conv2d: the offset is {list(offset.shape[2:])} and the output {list(size)}; it is read by "
        "its memory, as mmcv does (DyHead relies on it)",
        stacklevel=2,
    )
    offset, mask = (_layers.front(maps, size) for maps in (offset, mask))
    return _layers.conv(input, offset, weight, bias, mask, geometry, all_groups)


class DeformConv2dFunction:
    """``mmcv.ops.deform_conv.DeformConv2dFunction``; ``apply`` is :func:`deform_conv2d`, with gradients."""

    apply = staticmethod(deform_conv2d)


class ModulatedDeformConv2dFunction:
    """The same of ``mmcv.ops.modulated_deform_conv``; ``apply`` is :func:`modulated_deform_conv2d`, with gradients."""

    apply = staticmethod(modulated_deform_conv2d)


class RoIAlignFunction:
    """``mmcv.ops.roi_align.RoIAlignFunction``; ``apply`` is :func:`roi_align`, with gradients."""

    apply = staticmethod(roi_align)


class RoIPoolFunction:
    """``mmcv.ops.roi_pool.RoIPoolFunction``; ``apply`` is :func:`roi_pool`, with gradients."""

    apply = staticmethod(roi_pool)


class DeformConv2d(nn.Module):
    """``mmcv.ops.DeformConv2d``: the offsets come from the caller. Key: ``weight``."""

    @_layers.renamed(deformable_groups="deform_groups")
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = _USUAL_STEP,
    ) -> None:
        super().__init__()
        if bias:
            raise Refused(f"bias: expected False, got {bias!r}; DeformConv2d has none")
        _layers.check_groups(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _layers.pair("kernel_size", kernel_size), _layers.pair("stride", stride)
        self.padding, self.dilation = _layers.pair("padding", padding), _layers.pair("dilation", dilation)
        self.deform_groups, self.im2col_step = deform_groups, im2col_step
        self.transposed, self.output_padding = False, (0,)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight by Kaiming's rule for ReLU, uniform."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def _convolve(self, x: Tensor, offset: Tensor) -> Tensor:
        return deform_conv2d(
            x,
            offset,
            self.weight,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deform_groups,
            False,
            self.im2col_step,
        )

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """``[N, O, H_out, W_out]``; see :func:`deform_conv2d`."""
        return self._convolve(x, offset)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        return f"{text}, deform_groups={self.deform_groups}, bias=False"


class DeformConv2dPack(_layers.OffsetPack, DeformConv2d):
    """``mmcv.ops.DeformConv2dPack`` ("DCN"): a layer that predicts its offsets. Keys: ``weight``, ``conv_offset.*``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_offset = _offset_conv(self, 2)
        self.init_offset()

    def init_offset(self) -> None:
        """Set the offset branch to zero."""
        _layers.zero(self.conv_offset)

    def split(self, predicted: Tensor) -> tuple[Tensor, Tensor | None]:
        """The offset, which is all that ``conv_offset`` puts out."""
        return predicted, None

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``[N, O, H_out, W_out]``."""
        return self._convolve(x, self.conv_offset(x))


class ModulatedDeformConv2d(nn.Module):
    """``mmcv.ops.ModulatedDeformConv2d``: offsets and mask come from the caller. Keys: ``weight``, ``bias``."""

    @_layers.renamed(deformable_groups="deform_groups")
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool | str = True,
    ) -> None:
        super().__init__()
        _layers.check_groups(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _layers.pair("kernel_size", kernel_size), _layers.pair("stride", stride)
        self.padding, self.dilation = _layers.pair("padding", padding), _layers.pair("dilation", dilation)
        self.deform_groups = deform_groups
        self.transposed, self.output_padding = False, (0,)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weight uniformly within ``1/sqrt(in_channels * kh * kw)``; the bias is 0."""
        _layers.uniform(self.weight, self.bias, self.in_channels)

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        geometry = (self.stride, self.padding, self.dilation)
        return modulated_deform_conv2d(
            x, offset, mask, self.weight, self.bias, *geometry, self.groups, self.deform_groups
        )

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """``[N, O, H_out, W_out]``; see :func:`modulated_deform_conv2d`."""
        return self._convolve(x, offset, mask)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        return f"{text}, deform_groups={self.deform_groups}, bias={self.bias is not None}"


class ModulatedDeformConv2dPack(_layers.OffsetPack, ModulatedDeformConv2d):
    """``mmcv.ops.ModulatedDeformConv2dPack`` ("DCNv2"): predicts offsets and mask. Keys also ``conv_offset.*``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_offset = _offset_conv(self, 3)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weight; the bias and the offset branch are 0."""
        super().init_weights()
        if hasattr(self, "conv_offset"):
            _layers.zero(self.conv_offset)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``[N, O, H_out, W_out]``."""
        return self._convolve(x, *_layers.split(self.conv_offset(x)))


def _offset_conv(layer: DeformConv2d | ModulatedDeformConv2d, per_tap: int) -> nn.Conv2d:
    """The branch of a pack: an ordinary convolution of the layer's geometry with ``per_tap`` channels per tap."""
    kernel = layer.kernel_size
    channels = layer.deform_groups * per_tap * kernel[0] * kernel[1]
    return nn.Conv2d(
        layer.in_channels, channels, kernel, stride=layer.stride, padding=layer.padding, dilation=layer.dilation
    )


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size: Size,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """``mmcv.ops.deform_roi_pool``: ``[R, C, rows, columns]``; ``offset [R, 2, rows, columns]`` with x before y.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if offset is not None and not offset.numel():
        offset = None
    size = _layers.pair("output_size", output_size)
    scale, ratio, unit = float(spatial_scale), int(sampling_ratio), float(gamma)
    return ops.deform_roi_pool(input, rois, offset, size, scale, sampling_ratio=ratio, gamma=unit)


class DeformRoIPoolFunction:
    """``mmcv.ops.deform_roi_pool.DeformRoIPoolFunction``; ``apply`` is :func:`deform_roi_pool`, with gradients."""

    apply = staticmethod(deform_roi_pool)


class DeformRoIPool(nn.Module):
    """``mmcv.ops.DeformRoIPool``: the offsets, if any, come from the caller. No parameters."""

    def __init__(
        self, output_size: Size, spatial_scale: float = 1.0, sampling_ratio: int = 0, gamma: float = 0.1
    ) -> None:
        super().__init__()
        self.output_size = _layers.pair("output_size", output_size)
        self.spatial_scale, self.sampling_ratio = float(spatial_scale), int(sampling_ratio)
        self.gamma = float(gamma)

    def _pool(self, input: Tensor, rois: Tensor, offset: Tensor | None) -> Tensor:
        options = (self.output_size, self.spatial_scale, self.sampling_ratio, self.gamma)
        return deform_roi_pool(input, rois, offset, *options)

    def forward(self, input: Tensor, rois: Tensor, offset: Tensor | None = None) -> Tensor:
        """``[R, C, rows, columns]``; see :func:`deform_roi_pool`."""
        return self._pool(input, rois, offset)


class DeformRoIPoolPack(DeformRoIPool):
    """``mmcv.ops.DeformRoIPoolPack`` ("dpool"): predicts the offsets. Keys: ``offset_fc.{0,2,4}.*``."""

    def __init__(
        self,
        output_size: Size,
        output_channels: int,
        deform_fc_channels: int = 1024,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ) -> None:
        super().__init__(output_size, spatial_scale, sampling_ratio, gamma)
        self.output_channels, self.deform_fc_channels = output_channels, deform_fc_channels
        bins = self.output_size[0] * self.output_size[1]
        self.offset_fc = _layers.branch(bins * output_channels, deform_fc_channels, bins * 2)

    def _plain(self, input: Tensor, rois: Tensor) -> Tensor:
        if input.shape[1] != self.output_channels:
            raise Refused(f"input: expected {self.output_channels} channels, got shape {list(input.shape)}")
        return self._pool(input, rois, None).flatten(1)

    def _moved(self, input: Tensor, rois: Tensor, plain: Tensor) -> Tensor:
        return self._pool(input, rois, self.offset_fc(plain).view(-1, 2, *self.output_size))

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        """``[R, C, rows, columns]``."""
        return self._moved(input, rois, self._plain(input, rois))


class ModulatedDeformRoIPoolPack(DeformRoIPoolPack):
    """``mmcv.ops.ModulatedDeformRoIPoolPack`` ("mdpool"): predicts offsets and mask. Keys also ``mask_fc.{0,2}.*``."""

    def __init__(
        self,
        output_size: Size,
        output_channels: int,
        deform_fc_channels: int = 1024,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ) -> None:
        super().__init__(output_size, output_channels, deform_fc_channels, spatial_scale, sampling_ratio, gamma)
        bins = self.output_size[0] * self.output_size[1]
        self.mask_fc = _layers.mask_branch(bins * output_channels, deform_fc_channels, bins)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        """``[R, C, rows, columns]``."""
        plain = self._plain(input, rois)
        mask = self.mask_fc(plain).view(-1, 1, *self.output_size)
        return self._moved(input, rois, plain) * mask


def install(*, replace: bool = False) -> tuple[str, ...]:
    """Let ``mmcv.ops`` compute here where its compiled extension is missing (``mmcv-lite``) or does not load.

    Call it before the program imports its models. mmcv's own classes stay: registries, configurations and checkpoints
    work as they are. A working extension is left alone. What this package does not have (``CARAFE``, ``CornerPool``,
    rotated boxes, ...) can be imported, and raises a ``ValueError`` when it is called.

    Args:
        replace: compute here with a working extension too.

    Returns:
        The functions of ``mmcv.ops`` that were replaced, sorted; none where mmcv is not installed.

    Example:
        >>> import dcn.compat.mmcv
        >>> dcn.compat.mmcv.install()  # doctest: +SKIP
        ('DeformConv2dFunction', ..., 'soft_nms')
    """
    users = {f"mmcv.ops.{module}": names for module, names in _USERS.items()}
    return stand_in("mmcv._ext", users, globals(), replace=replace)
