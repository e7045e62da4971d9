"""The backbones of the original detectors, and which of their layers the papers make deformable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from dcn.models.backbones import aligned_inception_resnet
from dcn.models.backbones.aligned_inception_resnet import AlignedInceptionResNet
from dcn.models.backbones.resnet import BLOCKS, ConvFactory, NormRule, ResNet, Style, deformable_positions
from dcn.nn import DeformConv2d

DeformLayers = int | Sequence[str]
"""The last so many 3x3 convolutions, or stages and blocks by name (``"c5"``, ``"c4.22"``)."""

Architecture = Literal["resnet", "aligned_inception_resnet"]


def last_layers(count: int, blocks: Sequence[int]) -> frozenset[tuple[int, int]]:
    """Positions ``(stage, block)`` of the last ``count`` 3x3 convolutions (Table 1 of the paper: 0, 1, 2, 3 and 6).

    Raises:
        ValueError: if ``count`` is negative or more than stages 3 to 5 have.
    """
    positions = [(stage, index) for stage in (5, 4, 3) for index in reversed(range(blocks[stage - 2]))]
    if not 0 <= count <= len(positions):
        raise ValueError(f"deform_layers: expected 0 to {len(positions)} layers, got {count}")
    return frozenset(positions[:count])


def original_resnet(
    depth: int,
    *,
    width: float,
    stem_channels: int,
    style: Style,
    pool: Literal["floor", "ceil"],
    norm: NormRule,
    frozen_stages: int,
    c5_dilation: int,
    deform_layers: DeformLayers,
    offset_groups: int,
    dilated_offsets: bool,
) -> ResNet:
    """A ResNet with the original's deformable layers: boundary rule v1.

    Args:
        depth: 18, 34, 50 or 101.
        width: see :class:`ResNet`, as the following four.
        stem_channels: likewise.
        style: likewise.
        pool: likewise.
        norm: likewise.
        frozen_stages: likewise.
        c5_dilation: likewise.
        deform_layers: see :data:`DeformLayers`.
        offset_groups: of the deformable layers.
        dilated_offsets: whether the convolution that predicts offsets is dilated like its layer (the original: yes in
            detection, no in segmentation).
    """
    return ResNet(
        depth,
        width=width,
        stem_channels=stem_channels,
        style=style,
        pool=pool,
        c5_dilation=c5_dilation,
        deform=_positions(deform_layers, BLOCKS.get(depth, (0, 0, 0, 0))),
        deform_conv=_deform_conv(offset_groups, dilated_offsets),
        norm=norm,
        frozen_stages=frozen_stages,
    )


def _positions(layers: DeformLayers, blocks: Sequence[int]) -> frozenset[tuple[int, int]]:
    return last_layers(layers, blocks) if isinstance(layers, int) else deformable_positions(layers, blocks)


def _deform_conv(offset_groups: int, dilated_offsets: bool) -> ConvFactory:
    return partial(
        DeformConv2d,
        offset_groups=offset_groups,
        boundary="v1",
        offset_padding=None if dilated_offsets else 1,
        offset_dilation=None if dilated_offsets else 1,
    )


def original_backbone(
    architecture: Architecture,
    depth: int,
    *,
    width: float,
    stem_channels: int,
    style: Style,
    pool: Literal["floor", "ceil"],
    norm: NormRule,
    frozen_stages: int,
    c5_dilation: int,
    deform_layers: DeformLayers,
    offset_groups: int,
    dilated_offsets: bool,
) -> ResNet | AlignedInceptionResNet:
    """:func:`original_resnet`, or the network that the paper calls Aligned-Inception-ResNet.

    Args:
        architecture: which of the two. The latter exists in one form: depth, style and pool must be those of the
            ResNet-101 that it takes the place of. Its ``deform_layers`` counts blocks with three 3x3 convolutions each.
        depth: see :func:`original_resnet`, as all that follow.
        width: likewise.
        stem_channels: likewise.
        style: likewise.
        pool: likewise.
        norm: likewise.
        frozen_stages: likewise.
        c5_dilation: likewise.
        deform_layers: likewise.
        offset_groups: likewise.
        dilated_offsets: likewise.

    Raises:
        ValueError: an unknown architecture, or one that does not exist in the form asked for.
    """
    if architecture == "resnet":
        return original_resnet(
            depth,
            width=width,
            stem_channels=stem_channels,
            style=style,
            pool=pool,
            norm=norm,
            frozen_stages=frozen_stages,
            c5_dilation=c5_dilation,
            deform_layers=deform_layers,
            offset_groups=offset_groups,
            dilated_offsets=dilated_offsets,
        )
    if architecture != "aligned_inception_resnet":
        raise ValueError(f"architecture: expected 'resnet' or 'aligned_inception_resnet', got {architecture!r}")
    if (depth, style, pool) != (101, "caffe", "ceil"):
        raise ValueError(
            "architecture: aligned_inception_resnet exists in one form; expected depth, style and pool as they are by "
            f"default (101, 'caffe', 'ceil'), got {depth}, {style!r}, {pool!r}"
        )
    return AlignedInceptionResNet(
        width=width,
        stem_channels=stem_channels,
        c5_dilation=c5_dilation,
        deform=_positions(deform_layers, aligned_inception_resnet.BLOCKS),
        deform_conv=_deform_conv(offset_groups, dilated_offsets),
        norm=norm,
        frozen_stages=frozen_stages,
    )
