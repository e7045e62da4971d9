"""Deformable RoI pooling layers that own the branch giving their offsets.

The branches start at zero, so that every layer starts as the pooling without offsets (modulated: half of it, the mask
starts at sigmoid(0)). The original Faster R-CNN recipe trains ``offset_fc`` at 0.01 times the learning rate, R-FCN its
convolution at 1 times; an optimiser takes them by name (``offset_fc``, ``mask_fc``, ``conv_offset``).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dcn import checks
from dcn.nn.tracing import is_traced, recorded
from dcn.ops import deform_ps_roi_pool, deform_roi_pool
from dcn.ops._backends import check_name
from dcn.ops._roi_mean import BACKENDS, MOST_SAMPLES, Boxes
from dcn.ops.roi_pool import bins, samples

PoolForm = Literal["align", "parts"]


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _offset_branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    _zero(last)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)


def _mask_branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    _zero(last)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last, nn.Sigmoid())


def _check_map(name: str, value: Tensor, channels: int, weight: Tensor) -> None:
    """Refuse a map that does not fit the branch with ``weight``, in the words of the operators."""
    checks.ndim(name, value, 4, "[N, C, H, W]")
    if value.shape[1] != channels:
        raise ValueError(f"{name}: expected {channels} channels, got shape {list(value.shape)}")
    cast = value.dtype != weight.dtype and not value.is_meta and torch.is_autocast_enabled(value.device.type)
    if value.dtype != weight.dtype and not cast:
        raise ValueError(
            f"{name}: expected {weight.dtype}, the type of the layer, got {value.dtype}; convert one of them or use "
            "torch.autocast"
        )


class DeformRoIPool(nn.Module):
    """Deformable RoI pooling with two hidden fully connected layers for the offsets (Dai et al., section 2.2).

    RoIs are pooled without offsets, the result gives one offset per bin, and they are pooled again with it.

    Attributes:
        offset_fc: ``Linear(C*P*Q, hidden)``, ReLU, ``Linear(hidden, hidden)``, ReLU, ``Linear(hidden, 2*P*Q)``: keys
            ``offset_fc.{0,2,4}.{weight,bias}``, those of mmcv. All x offsets come first, then all y.

    Example:
        >>> layer = DeformRoIPool((7, 7), 64, spatial_scale=1 / 16)
        >>> rois = torch.tensor([[0, 32.0, 16, 200, 180]])  # image index, x1, y1, x2, y2 in pixels of the image
        >>> layer(torch.rand(1, 64, 20, 30), rois).shape
        torch.Size([1, 64, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        output_channels: int,
        deform_fc_channels: int = 1024,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
        *,
        form: PoolForm = "align",
        backend: str | None = None,
    ) -> None:
        """Make the layer.

        Args:
            output_size: bins ``P, Q``.
            output_channels: channels ``C`` of the map and of the output.
            deform_fc_channels: width of the hidden layers.
            spatial_scale: map pixels per box pixel.
            sampling_ratio: samples per bin and axis; 0: adaptive with ``form="align"``, 4 with ``form="parts"``.
            gamma: unit of the offsets as a share of the RoI's size (``trans_std``).
            form: ``"align"`` pools by :func:`dcn.ops.deform_roi_pool` (mmcv since 2020), ``"parts"`` by
                :func:`dcn.ops.deform_ps_roi_pool` with one group (the original code, and released mmdetection weights).
            backend: of the operator.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        super().__init__()
        checks.choice("form", form, ("align", "parts"))
        self.output_size, self.output_channels = bins(output_size), checks.whole("output_channels", output_channels, 1)
        self.spatial_scale = checks.number("spatial_scale", spatial_scale, above=0.0)
        self.sampling_ratio = samples("sampling_ratio", sampling_ratio)
        self.gamma = checks.number("gamma", gamma)
        check_name(BACKENDS, backend)
        checks.whole("deform_fc_channels", deform_fc_channels, 1)
        self.form, self.backend = form, backend
        count = self.output_size[0] * self.output_size[1]
        self.offset_fc = _offset_branch(output_channels * count, deform_fc_channels, 2 * count)

    def forward(self, input: Tensor, boxes: Boxes) -> Tensor:
        """``[R, C, P, Q]`` from a map ``[N, C, H, W]`` and boxes as in :func:`dcn.ops.roi_align`.

        Raises:
            ValueError: the map has other channels or another type than the layer, or a box is wrong.
        """
        if is_traced(self, input):
            return recorded(self, input, boxes)
        _check_map("input", input, self.output_channels, next(self.offset_fc.parameters()))
        plain = self.pool(input, boxes, None, None)
        return self.pool(input, boxes, self.offsets(plain), None)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        text = f"{self.output_size}, {self.output_channels}, spatial_scale={self.spatial_scale:g}, gamma={self.gamma:g}"
        text += f", sampling_ratio={self.sampling_ratio}, form={self.form!r}"
        return text if self.backend is None else f"{text}, backend={self.backend!r}"

    def offsets(self, plain: Tensor) -> Tensor:
        """Offsets ``[R, 2, P, Q]`` (x, y) from the RoIs pooled without ``[R, C, P, Q]``."""
        return self.offset_fc(plain.flatten(1)).view(-1, 2, *self.output_size)

    def pool(self, input: Tensor, boxes: Boxes, offset: Tensor | None, mask: Tensor | None) -> Tensor:
        """``[R, C, P, Q]``: the operator with the options of this layer."""
        size, scale = self.output_size, self.spatial_scale
        if self.form == "parts":
            samples = self.sampling_ratio if self.sampling_ratio > 0 else 4
            return deform_ps_roi_pool(
                input,
                boxes,
                offset,
                size,
                scale,
                mask,
                sample_per_part=samples,
                trans_std=self.gamma,
                backend=self.backend,
            )
        ratio = self.sampling_ratio
        return deform_roi_pool(
            input, boxes, offset, size, scale, mask, sampling_ratio=ratio, gamma=self.gamma, backend=self.backend
        )


class ModulatedDeformRoIPool(DeformRoIPool):
    """The same with one factor per bin (Zhu et al., "Deformable ConvNets v2", section 2.2, equation 2).

    Attributes:
        mask_fc: ``Linear(C*P*Q, hidden)``, ReLU, ``Linear(hidden, P*Q)``, Sigmoid: keys ``mask_fc.{0,2}.*``.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        output_channels: int,
        deform_fc_channels: int = 1024,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
        *,
        form: PoolForm = "align",
        backend: str | None = None,
    ) -> None:
        """Make the layer; arguments as for :class:`DeformRoIPool`."""
        super().__init__(
            output_size,
            output_channels,
            deform_fc_channels,
            spatial_scale,
            sampling_ratio,
            gamma,
            form=form,
            backend=backend,
        )
        count = self.output_size[0] * self.output_size[1]
        self.mask_fc = _mask_branch(output_channels * count, deform_fc_channels, count)

    def forward(self, input: Tensor, boxes: Boxes) -> Tensor:
        """``[R, C, P, Q]`` from a map ``[N, C, H, W]`` and boxes as in :func:`dcn.ops.roi_align`.

        Raises:
            ValueError: the map has other channels or another type than the layer, or a box is wrong.
        """
        if is_traced(self, input):
            return recorded(self, input, boxes)
        _check_map("input", input, self.output_channels, next(self.offset_fc.parameters()))
        plain = self.pool(input, boxes, None, None)
        mask = self.mask_fc(plain.flatten(1)).view(-1, 1, *self.output_size)
        return self.pool(input, boxes, self.offsets(plain), mask)


class DeformPSRoIPool(nn.Module):
    """Deformable position-sensitive RoI pooling with offsets from a convolution (Dai et al., section 2.2, figure 4).

    A 1 x 1 convolution on the features gives offset fields; pooled position-sensitively without offsets they are the
    offsets of the RoI, one pair per bin and class, with which the score maps are pooled.

    Attributes:
        conv_offset: ``Conv2d(in_channels, 2 * classes * k * k, 1)``.

    Example:
        >>> layer = DeformPSRoIPool(64, classes=21, output_size=7)
        >>> features, scores = torch.rand(1, 64, 20, 30), torch.rand(1, 21 * 7 * 7, 20, 30)
        >>> layer(features, scores, torch.tensor([[0, 32.0, 16, 200, 180]])).shape
        torch.Size([1, 21, 7, 7])
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        output_size: int = 7,
        spatial_scale: float = 1 / 16,
        sample_per_part: int = 4,
        trans_std: float = 0.1,
        *,
        backend: str | None = None,
    ) -> None:
        """Make the layer.

        Args:
            in_channels: channels of the features.
            classes: offset classes: with the background for scores, 1 for class-agnostic boxes.
            output_size: bins, parts and channel groups per axis, ``k``.
            spatial_scale: map pixels per box pixel.
            sample_per_part: samples per bin and axis.
            trans_std: unit of the offsets as a share of the RoI's size.
            backend: of the operator.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        super().__init__()
        self.in_channels = checks.whole("in_channels", in_channels, 1)
        self.classes, self.output_size = (
            checks.whole("classes", classes, 1),
            checks.whole("output_size", output_size, 1),
        )
        self.spatial_scale = checks.number("spatial_scale", spatial_scale, above=0.0)
        self.sample_per_part = checks.whole("sample_per_part", sample_per_part, 1, MOST_SAMPLES)
        self.trans_std = checks.number("trans_std", trans_std)
        check_name(BACKENDS, backend)
        self.backend = backend
        self.conv_offset = nn.Conv2d(in_channels, 2 * classes * output_size**2, 1)
        _zero(self.conv_offset)

    def forward(self, features: Tensor, maps: Tensor, boxes: Boxes) -> Tensor:
        """Pool score maps.

        Args:
            features: ``[N, in_channels, H, W]``.
            maps: ``[N, D * k * k, H, W]`` with ``D`` a multiple of ``classes``.
            boxes: as in :func:`dcn.ops.roi_align`.

        Returns:
            ``[R, D, k, k]``.

        Raises:
            ValueError: ``features`` or ``maps`` has the wrong channels or type, or a box is wrong.
        """
        if is_traced(self, features):
            return recorded(self, features, maps, boxes)
        _check_map("features", features, self.in_channels, self.conv_offset.weight)
        checks.ndim("maps", maps, 4, "[N, D * k * k, H, W]")
        if maps.shape[1] % (self.classes * self.output_size**2):
            raise ValueError(
                f"maps: expected a multiple of classes * k * k = {self.classes * self.output_size**2} channels, "
                f"got shape {list(maps.shape)}"
            )
        offset = self._pool(self.conv_offset(features), boxes, None)
        return self._pool(maps, boxes, offset)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        text = f"{self.in_channels}, classes={self.classes}, output_size={self.output_size}"
        text += f", spatial_scale={self.spatial_scale:g}, sample_per_part={self.sample_per_part}"
        text += f", trans_std={self.trans_std:g}"
        return text if self.backend is None else f"{text}, backend={self.backend!r}"

    def _pool(self, maps: Tensor, boxes: Boxes, offset: Tensor | None) -> Tensor:
        return deform_ps_roi_pool(
            maps,
            boxes,
            offset,
            self.output_size,
            self.spatial_scale,
            group_size=self.output_size,
            sample_per_part=self.sample_per_part,
            trans_std=self.trans_std,
            backend=self.backend,
        )
