"""Backbones as values: the parameters of a backbone, documented once and handed to every builder.

A builder takes a spec or a module of your own, see :func:`make_backbone`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dcn.models.backbones import aligned_inception_resnet
from dcn.models.backbones.aligned_inception_resnet import AlignedInceptionResNet
from dcn.models.backbones.freezing import NormRule
from dcn.models.backbones.resnet import BLOCKS, ConvFactory, ResNet, Style, deformable_positions
from dcn.nn import DeformConv2d

DeformLayers = int | tuple[str, ...]
"""The last so many 3x3 convolutions, or stages and blocks by name (``"c5"``, ``"c4.22"``)."""

PROBE = 256
"""Side of the image that a backbone without ``strides`` is shown once; Swin needs maps of its window, 7 cells of 32."""


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """The parameters of a backbone; the fields of a subclass become options of the models that use it."""

    def build(self) -> nn.Module:
        """The backbone with random weights.

        Raises:
            ValueError: a value that the backbone does not exist with.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DeformableSpec(BackboneSpec):
    """The parameters that the backbones of the package share; their maps are ``(C2, C3, C4, C5)``.

    Attributes:
        width: factor on the channels of the stages, not of the stem.
        stem_channels: channels after the first convolution.
        c5_dilation: 1: the last stage has stride 32; above 1, it has stride 16 and its 3x3 convolutions this dilation
            (R-FCN, DeepLab: 2; Table 3 of the paper: 2, 4, 6, 8).
        deform_layers: deformable 3x3 convolutions: the last so many (Table 1 of the paper: 0, 1, 2, 3, 6), or stages
            (``"c3"``) and blocks counted from 0 (``"c5.2"``) by name.
        modulated: whether deformable layers weigh each sample (v2).
        offset_groups: of the deformable layers.
        boundary: rule of the deformable layers at the image border, ``"v1"`` (the original code) or ``"v2"``.
        dilated_offsets: whether the convolution that predicts offsets is dilated like its layer (the original code: yes
            in detection, no in segmentation).
        norm: ``"eval"``: running statistics are fixed, scale and shift are trained (mmdetection); ``"frozen"``: all
            fixed (the original code); ``"train"``: ordinary batch norm (training from scratch).
        frozen_stages: 0 trains everything; ``n`` fixes the stem and the first ``n`` of the four stages.
    """

    width: float = 1.0
    stem_channels: int = 64
    c5_dilation: int = 1
    deform_layers: DeformLayers = ()
    modulated: bool = False
    offset_groups: int = 1
    boundary: Literal["v1", "v2"] = "v2"
    dilated_offsets: bool = True
    norm: NormRule = "eval"
    frozen_stages: int = 1

    def __post_init__(self) -> None:
        layers: object = self.deform_layers  # from a recipe: any value
        if isinstance(layers, str):
            raise ValueError(
                f"deform_layers: expected a number of layers or a list of stages and blocks, got the text {layers!r}; "
                f"write [{layers!r}]"
            )
        if isinstance(layers, Sequence):
            object.__setattr__(self, "deform_layers", tuple(layers))
        elif not isinstance(layers, int):
            raise ValueError(f"deform_layers: expected a number or a list of stages and blocks, got {layers!r}")

    def positions(self, blocks: Sequence[int]) -> frozenset[tuple[int, int]]:
        """``(stage, block)`` of the deformable layers of a backbone with so many blocks in its four stages."""
        layers = self.deform_layers
        return last_layers(layers, blocks) if isinstance(layers, int) else deformable_positions(layers, blocks)

    @property
    def deform_conv(self) -> ConvFactory:
        """Makes a deformable layer."""
        return partial(
            DeformConv2d,
            modulated=self.modulated,
            offset_groups=self.offset_groups,
            boundary=self.boundary,
            offset_padding=None if self.dilated_offsets else 1,
            offset_dilation=None if self.dilated_offsets else 1,
        )


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(DeformableSpec):
    """A ResNet or ResNeXt, see :class:`dcn.models.backbones.ResNet`.

    Attributes:
        depth: 18, 34, 50 or 101.
        groups: groups of the 3x3 convolutions (ResNeXt-32x4d: 32); only with bottleneck blocks, from depth 50 on.
        base_width: width of a group (ResNeXt-32x4d: 4); 64 with one group.
        style: where the stride of a stage is: ``"caffe"``, the first 1x1; ``"pytorch"``, the 3x3.
        pool: max pooling after the stem: ``"floor"`` with padding, ``"ceil"`` without (Caffe, MXNet).
    """

    depth: int = 50
    groups: int = 1
    base_width: int = 64
    style: Style = "pytorch"
    pool: Literal["floor", "ceil"] = "floor"

    def build(self) -> ResNet:
        """The ResNet with random weights; errors as in :class:`ResNet`."""
        return ResNet(
            self.depth,
            width=self.width,
            stem_channels=self.stem_channels,
            cardinality=(self.groups, self.base_width),
            style=self.style,
            pool=self.pool,
            c5_dilation=self.c5_dilation,
            deform=dict.fromkeys(self.positions(BLOCKS.get(self.depth, (0, 0, 0, 0))), self.deform_conv),
            norm=self.norm,
            frozen_stages=self.frozen_stages,
        )


@dataclass(frozen=True, kw_only=True)
class AlignedInceptionResNetSpec(DeformableSpec):
    """The paper's Aligned-Inception-ResNet, see :class:`dcn.models.backbones.AlignedInceptionResNet`.

    ``deform_layers`` counts blocks: all three 3x3 convolutions of such a block are deformable.
    """

    def build(self) -> AlignedInceptionResNet:
        """The backbone with random weights; errors as in :class:`AlignedInceptionResNet`."""
        return AlignedInceptionResNet(
            width=self.width,
            stem_channels=self.stem_channels,
            c5_dilation=self.c5_dilation,
            deform=dict.fromkeys(self.positions(aligned_inception_resnet.BLOCKS), self.deform_conv),
            norm=self.norm,
            frozen_stages=self.frozen_stages,
        )


RESNET50 = ResNetSpec(depth=50)
"""The backbone that mmdetection's detectors start from."""

ORIGINAL_PYRAMID_BACKBONE = ResNetSpec(
    depth=101, style="caffe", pool="ceil", norm="frozen", boundary="v1", offset_groups=4
)
"""The backbone of the original FPN."""

ORIGINAL_BACKBONE = ResNetSpec(
    depth=101, style="caffe", pool="ceil", norm="frozen", boundary="v1", offset_groups=4, c5_dilation=2
)
"""The backbone of the original R-FCN and Faster R-CNN: stride 16."""

Architecture = Literal["resnet", "aligned_inception_resnet"]


def last_layers(count: int, blocks: Sequence[int]) -> frozenset[tuple[int, int]]:
    """Positions ``(stage, block)`` of the last ``count`` 3x3 convolutions (Table 1 of the paper: 0, 1, 2, 3 and 6).

    Raises:
        ValueError: ``count`` is negative or more than stages 3 to 5 have.
    """
    positions = [(stage, index) for stage in (5, 4, 3) for index in reversed(range(blocks[stage - 2]))]
    if not 0 <= count <= len(positions):
        raise ValueError(f"deform_layers: expected 0 to {len(positions)} layers, got {count}")
    return frozenset(positions[:count])


def make_backbone(
    backbone: BackboneSpec | nn.Module, strides: Sequence[int], *, exactly: bool = False
) -> tuple[nn.Module, list[int]]:
    """A backbone whose maps fit a model, and the channels of its maps.

    Args:
        backbone: a spec, or a module of your own that takes normalised images ``[N, 3, H, W]`` and returns a list of
            maps, finest first; its attribute ``out_channels`` lists their channels. A module with an attribute
            ``strides`` is believed; any other is run once on a black image of 256 x 256, and its maps are compared with
            ``out_channels`` and ``strides``.
        strides: pixels per cell of the last maps, as the model needs them.
        exactly: whether the backbone may have no other maps than these.

    Raises:
        ValueError: the module has no ``out_channels``, returns other maps than it says, or has other strides.
    """
    module = backbone.build() if isinstance(backbone, BackboneSpec) else backbone
    if not isinstance(module, nn.Module):
        raise ValueError(f"backbone: expected a spec such as ResNetSpec(depth=50) or a module, got {backbone!r}")
    out_channels = getattr(module, "out_channels", None)
    if not isinstance(out_channels, list | tuple) or not all(isinstance(count, int) for count in out_channels):
        raise ValueError(
            f"backbone: expected an attribute `out_channels`, the list of the channels of its maps, on "
            f"{type(module).__name__}, got {out_channels!r}"
        )
    channels = list(out_channels)
    known = getattr(module, "strides", None)
    has = list(known) if known is not None else _measured_strides(module, channels)
    if has[-len(strides) :] != list(strides) or (exactly and len(has) != len(strides)):
        last = "maps" if exactly else f"the last {len(strides)} maps" if len(strides) > 1 else "the last map"
        raise ValueError(
            f"backbone: expected {last} of stride {', '.join(map(str, strides))}, got {', '.join(map(str, has))}; "
            "c5_dilation=2 gives the last stage stride 16, c5_dilation=1 stride 32"
        )
    return module, channels


@torch.no_grad()
def _measured_strides(module: nn.Module, channels: list[int]) -> list[int]:
    """The strides of a module of one's own, after its maps have been compared with the channels it states."""
    parameter = next(module.parameters(), None)
    image = torch.zeros(1, 3, PROBE, PROBE, device=None if parameter is None else parameter.device)
    was_training = module.training
    try:
        maps = module.eval()(image)
    finally:
        module.train(was_training)
    if not isinstance(maps, list | tuple) or not all(isinstance(one, Tensor) and one.ndim == 4 for one in maps):
        raise ValueError(
            f"backbone: expected a list of maps [N, C, H, W] from {type(module).__name__}, got {type(maps).__name__}"
        )
    if [one.shape[1] for one in maps] != channels:
        raise ValueError(
            f"backbone: expected maps of {channels} channels (`out_channels`), "
            f"got {[one.shape[1] for one in maps]} from {type(module).__name__}"
        )
    return [round(PROBE / one.shape[2]) for one in maps]


def architecture_spec(architecture: str, spec: DeformableSpec) -> DeformableSpec:
    """The spec of the backbone that older weights files and recipes name by ``architecture``.

    Raises:
        ValueError: an unknown name.
    """
    if architecture not in get_args(Architecture):
        raise ValueError(
            f"architecture: expected {' or '.join(map(repr, get_args(Architecture)))}, got {architecture!r}"
        )
    if architecture == "resnet":
        return spec
    return AlignedInceptionResNetSpec(**{field.name: getattr(spec, field.name) for field in fields(DeformableSpec)})
