"""The ResNet of the original MXNet code, and which of its layers the papers make deformable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from dcn.models.backbones.resnet import BLOCKS, NormRule, ResNet, Style, deformable_positions
from dcn.nn import DeformConv2d

DeformLayers = int | Sequence[str]
"""The last so many 3x3 convolutions, or stages and blocks by name (``"c5"``, ``"c4.22"``)."""


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
    blocks = BLOCKS.get(depth, (0, 0, 0, 0))
    if isinstance(deform_layers, int):
        deform = last_layers(deform_layers, blocks)
    else:
        deform = deformable_positions(deform_layers, blocks)
    deform_conv = partial(
        DeformConv2d,
        offset_groups=offset_groups,
        boundary="v1",
        offset_padding=None if dilated_offsets else 1,
        offset_dilation=None if dilated_offsets else 1,
    )
    return ResNet(
        depth,
        width=width,
        stem_channels=stem_channels,
        style=style,
        pool=pool,
        c5_dilation=c5_dilation,
        deform=deform,
        deform_conv=deform_conv,
        norm=norm,
        frozen_stages=frozen_stages,
    )
