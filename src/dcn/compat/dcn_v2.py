"""The ``DCNv2`` extension modules by this package's operators, without anything to build.

    from dcn.compat.dcn_v2 import DCN           # was: from dcn_v2 import DCN

Names, argument lists and state-dict keys of CharlesShang's DCNv2 and its forks (``DCN``, ``DCN_sep``, ``DCNv2``,
``DCNv2Pooling``, ``DCNPooling``, ``dcn_v2_conv``, ``dcn_v2_pooling``) and of chengdazhi's modules
(``ModulatedDeformConv``, ``ModulatedDeformConvPack``, ``DeformRoIPooling``, ``ModulatedDeformRoIPoolingPack``). The
offset branch is the key ``conv_offset_mask.*``; as in the extension it has the kernel, stride and padding of the layer,
but no dilation. Its first two thirds of channels are the offsets (per group and tap y, x), the rest are mask logits.

RoI pooling is the original rounded operator, :func:`dcn.ops.deform_ps_roi_pool`; offsets are x first, then y.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcn import ops
from dcn.compat import _layers
from dcn.compat._layers import Refused, Size

__all__ = [
    "DCN",
    "DCNPooling",
    "DCN_sep",
    "DCNv2",
    "DCNv2Pooling",
    "DeformRoIPooling",
    "ModulatedDeformConv",
    "ModulatedDeformConvPack",
    "ModulatedDeformRoIPoolingPack",
    "dcn_v2_conv",
    "dcn_v2_pooling",
]


def dcn_v2_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    deformable_groups: int,
) -> Tensor:
    """Modulated deformable convolution: ``[N, O, H_out, W_out]``.

    Args:
        input: ``[N, C, H, W]``.
        offset: ``[N, 2*deformable_groups*kh*kw, H_out, W_out]``.
        mask: ``[N, deformable_groups*kh*kw, H_out, W_out]``, after the sigmoid.
        weight: ``[O, C, kh, kw]``.
        bias: ``[O]``.
        stride: an int or ``(y, x)``.
        padding: an int or ``(y, x)``.
        dilation: an int or ``(y, x)``.
        deformable_groups: offset groups.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    return _layers.conv(input, offset, weight, bias, mask, (stride, padding, dilation), (1, deformable_groups))


class DCNv2(nn.Module):
    """The layer whose offsets and mask come from the caller. Keys: ``weight``, ``bias``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = _layers.pair("kernel_size", kernel_size), _layers.pair("stride", stride)
        self.padding, self.dilation = _layers.pair("padding", padding), _layers.pair("dilation", dilation)
        self.deformable_groups = deformable_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight uniformly within ``1/sqrt(in_channels * kh * kw)``; the bias is 0."""
        _layers.uniform(self.weight, self.bias, self.in_channels)

    def _convolve(self, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        geometry = (self.stride, self.padding, self.dilation)
        return dcn_v2_conv(input, offset, mask, self.weight, self.bias, *geometry, self.deformable_groups)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """``[N, O, H_out, W_out]``; see :func:`dcn_v2_conv`."""
        return self._convolve(input, offset, mask)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{text}, padding={self.padding}, dilation={self.dilation}, deformable_groups={self.deformable_groups}"


class DCN(_layers.OffsetPack, DCNv2):
    """The layer that predicts offsets and mask. Keys: ``weight``, ``bias``, ``conv_offset_mask.*``."""

    _branch, _groups = "conv_offset_mask", "deformable_groups"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, deformable_groups)
        channels = deformable_groups * 3 * self.kernel_size[0] * self.kernel_size[1]
        self.conv_offset_mask = nn.Conv2d(in_channels, channels, self.kernel_size, self.stride, self.padding)
        self.init_offset()

    def init_offset(self) -> None:
        """Set the offset branch to zero."""
        _layers.zero(self.conv_offset_mask)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """``[N, O, H_out, W_out]``."""
        return self._convolve(input, *_layers.split(self.conv_offset_mask(input)))


class DCN_sep(DCN):
    """The layer whose offsets and mask come from a second map, as EDVR and Zooming Slow-Mo have it; keys of `DCN`."""

    def forward(self, input: Tensor, fea: Tensor) -> Tensor:  # type: ignore[override]
        """``[N, O, H_out, W_out]``; ``fea`` is of the size of ``input`` and is given to the offset branch."""
        return self._convolve(input, *_layers.split(self.conv_offset_mask(fea)))


class ModulatedDeformConv(DCNv2):
    """chengdazhi's name; with ``no_bias`` the bias stays in the state dict and is not trained."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size = 1,
        deformable_groups: int = 1,
        no_bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, deformable_groups)
        self.no_bias = no_bias
        self.bias.requires_grad = not no_bias


class ModulatedDeformConvPack(DCN):
    """chengdazhi's name of :class:`DCN`; with ``no_bias`` the bias is not trained."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size = 1,
        deformable_groups: int = 1,
        no_bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, deformable_groups)
        self.no_bias = no_bias
        self.bias.requires_grad = not no_bias


def dcn_v2_pooling(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    spatial_scale: float,
    pooled_size: int,
    output_dim: int,
    no_trans: bool,
    group_size: int = 1,
    part_size: int | None = None,
    sample_per_part: int = 4,
    trans_std: float = 0.0,
) -> Tensor:
    """Deformable (position-sensitive) RoI pooling: ``[R, output_dim, pooled_size, pooled_size]``.

    Args:
        input: ``[N, output_dim * group_size**2, H, W]``.
        rois: ``[R, 5]`` (image, x1, y1, x2, y2).
        offset: ``[R, 2*classes, part_size, part_size]``, x first, then y; not read with ``no_trans``.
        spatial_scale: map pixels per box pixel.
        pooled_size: bins per axis.
        output_dim: channels of the output.
        no_trans: pool without offsets.
        group_size: channel groups per axis.
        part_size: parts per axis, ``None`` for ``pooled_size``.
        sample_per_part: samples per bin and axis.
        trans_std: unit of the offsets as a share of the RoI's size.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    if input.shape[1] != output_dim * group_size**2:
        raise Refused(
            f"input: expected output_dim * group_size**2 = {output_dim * group_size**2} channels, "
            f"got shape {list(input.shape)}"
        )
    parts = pooled_size if part_size is None else part_size
    if not no_trans and tuple(offset.shape[2:]) != (parts, parts):
        raise Refused(f"offset: expected [R, 2*classes, {parts}, {parts}], got shape {list(offset.shape)}")
    return ops.deform_ps_roi_pool(
        input,
        rois,
        None if no_trans else offset,
        pooled_size,
        float(spatial_scale),
        group_size=group_size,
        sample_per_part=sample_per_part,
        trans_std=float(trans_std),
    )


class DCNv2Pooling(nn.Module):
    """RoI pooling whose offsets come from the caller. No parameters."""

    def __init__(
        self,
        spatial_scale: float,
        pooled_size: int,
        output_dim: int,
        no_trans: bool,
        group_size: int = 1,
        part_size: int | None = None,
        sample_per_part: int = 4,
        trans_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.spatial_scale, self.pooled_size, self.output_dim = spatial_scale, pooled_size, output_dim
        self.no_trans, self.group_size = no_trans, group_size
        self.part_size = pooled_size if part_size is None else part_size
        self.sample_per_part, self.trans_std = sample_per_part, trans_std

    def _pool(self, input: Tensor, rois: Tensor, offset: Tensor | None) -> Tensor:
        no_trans = self.no_trans or offset is None
        moves = input.new_empty(0) if offset is None else offset
        size, samples = (self.pooled_size, self.output_dim), (self.part_size, self.sample_per_part)
        return dcn_v2_pooling(
            input, rois, moves, self.spatial_scale, *size, no_trans, self.group_size, *samples, self.trans_std
        )

    def forward(self, input: Tensor, rois: Tensor, offset: Tensor) -> Tensor:
        """``[R, output_dim, pooled_size, pooled_size]``; see :func:`dcn_v2_pooling`."""
        return self._pool(input, rois, offset)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        fields = ("spatial_scale", "pooled_size", "output_dim", "no_trans", "group_size", "part_size")
        return ", ".join(f"{name}={getattr(self, name)}" for name in (*fields, "sample_per_part", "trans_std"))


class _PredictingPooling(DCNv2Pooling):
    """A pooling that predicts its offsets and mask from what it pools without them."""

    def __init__(
        self,
        spatial_scale: float,
        pooled_size: int,
        output_dim: int,
        no_trans: bool,
        group_size: int = 1,
        part_size: int | None = None,
        sample_per_part: int = 4,
        trans_std: float = 0.0,
        deform_fc_dim: int = 1024,
    ) -> None:
        samples = (group_size, part_size, sample_per_part, trans_std)
        super().__init__(spatial_scale, pooled_size, output_dim, no_trans, *samples)
        self.deform_fc_dim = deform_fc_dim
        bins = self.pooled_size**2
        if not self.no_trans:
            self._make_branches(bins * self.output_dim, deform_fc_dim, bins)

    def _make_branches(self, inputs: int, hidden: int, bins: int) -> None:
        raise NotImplementedError


class DCNPooling(_PredictingPooling):
    """RoI pooling that predicts offsets and mask by one branch. Keys: ``offset_mask_fc.{0,2,4}.*``."""

    def _make_branches(self, inputs: int, hidden: int, bins: int) -> None:
        self.offset_mask_fc = _layers.branch(inputs, hidden, bins * 3)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        """``[R, output_dim, pooled_size, pooled_size]``."""
        plain = self._pool(input, rois, None)
        if self.no_trans:
            return plain
        predicted = self.offset_mask_fc(plain.flatten(1)).view(-1, 3, self.pooled_size, self.pooled_size)
        offset, mask = _layers.split(predicted)
        return self._pool(input, rois, offset) * mask


class DeformRoIPooling(DCNv2Pooling):
    """chengdazhi's name of :class:`DCNv2Pooling`."""

    def forward(self, data: Tensor, rois: Tensor, offset: Tensor) -> Tensor:
        """``[R, output_dim, pooled_size, pooled_size]``; see :func:`dcn_v2_pooling`."""
        return self._pool(data, rois, offset)


class ModulatedDeformRoIPoolingPack(_PredictingPooling):
    """chengdazhi's pooling with two branches. Keys: ``offset_fc.{0,2,4}.*``, ``mask_fc.{0,2}.*``."""

    def _make_branches(self, inputs: int, hidden: int, bins: int) -> None:
        self.offset_fc = _layers.branch(inputs, hidden, bins * 2)
        self.mask_fc = _layers.mask_branch(inputs, hidden, bins)

    def forward(self, data: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        """``[R, output_dim, pooled_size, pooled_size]``."""
        plain = self._pool(data, rois, None)
        if self.no_trans:
            return plain
        size = (self.pooled_size, self.pooled_size)
        flat = plain.flatten(1)
        offset, mask = self.offset_fc(flat).view(-1, 2, *size), self.mask_fc(flat).view(-1, 1, *size)
        return self._pool(data, rois, offset) * mask
