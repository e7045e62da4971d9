"""DeepLabv3 (Chen et al. 2017): atrous spatial pyramid pooling, on any ResNet or ResNeXt of the package."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.models.backbones.resnet import BLOCKS, NormRule, ResNet, Style, deformable_positions
from dcn.models.preprocess import Preprocess, PreprocessName
from dcn.models.segmentation.deeplab import DeepLab
from dcn.nn import DeformConv2d


def _branch(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class AsppHead(nn.Module):
    """Five looks at a map, joined: 1x1, three dilated 3x3, and its mean (section 3.3 of the paper).

    Args:
        in_channels: of the map.
        num_classes: of the scores.
        channels: of each look and of their join.
        rates: dilations of the 3x3 convolutions; the paper has (6, 12, 18) at stride 16.
        deform: make the 3x3 convolutions deformable: offsets then start from the dilated grid.
        modulated: with ``deform``, weigh each sample as well.
        dropout: of the joined map in training.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        deform: bool = False,
        modulated: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        conv3x3 = partial(DeformConv2d, modulated=modulated) if deform else nn.Conv2d
        branches = [_branch(nn.Conv2d(in_channels, channels, 1, bias=False), channels)]
        branches += [
            _branch(conv3x3(in_channels, channels, 3, padding=rate, dilation=rate, bias=False), channels)
            for rate in rates
        ]
        self.branches = nn.ModuleList(branches)
        # No batch norm behind the mean: in training a batch of one image has a single value per channel there.
        self.image = nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.ReLU(inplace=True))
        self.project = _branch(nn.Conv2d((len(rates) + 2) * channels, channels, 1, bias=False), channels)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Map ``[N, in_channels, h, w]`` to scores ``[N, num_classes, *size]`` of an image of ``(height, width)``."""
        looks = [branch(features) for branch in self.branches]
        looks.append(self.image(features.mean((2, 3), keepdim=True)).expand_as(looks[0]))
        scores = self.score(self.dropout(self.project(torch.cat(looks, 1))))
        return F.interpolate(scores, size, mode="bilinear", align_corners=False)


def deeplabv3(
    num_classes: int = 21,
    *,
    depth: int = 50,
    width: float = 1.0,
    stem_channels: int = 64,
    groups: int = 1,
    base_width: int = 64,
    style: Style = "pytorch",
    pool: Literal["floor", "ceil"] = "floor",
    preprocess: PreprocessName = "rgb_std",
    norm: NormRule = "eval",
    frozen_stages: int = 1,
    c5_dilation: int = 2,
    deform_stages: Collection[str] = (),
    modulated: bool = False,
    offset_groups: int = 1,
    deform_head: bool = False,
    head_channels: int = 256,
    rates: Sequence[int] = (6, 12, 18),
    dropout: float = 0.1,
    test_size: tuple[int, int] = (512, 2048),
) -> DeepLab:
    """DeepLabv3 at stride 16.

    Args:
        num_classes: all of them (Pascal VOC counts background: 21).
        depth: of the backbone: 18, 34, 50, 101.
        width: factor on the channels of its stages.
        stem_channels: channels of its first convolution.
        groups: of its 3x3 convolutions (ResNeXt: 32).
        base_width: ResNeXt's width per group (4).
        style: stride in the first 1x1 (``"caffe"``) or in the 3x3 (``"pytorch"``).
        pool: pooling after its stem, see :class:`ResNet`.
        preprocess: how images are normalised, see :class:`Preprocess`.
        norm: what batch norm of the backbone trains, see :class:`ResNet`; that of the head is always trained.
        frozen_stages: 0 to 4, see :class:`ResNet`.
        c5_dilation: of its last stage, which has stride 1.
        deform_stages: deformable stages (``"c4"``) or blocks (``"c5.2"``).
        modulated: deformable layers weigh each sample as well, those of the head too.
        offset_groups: of the deformable layers of the backbone.
        deform_head: make the 3x3 convolutions of the head deformable.
        head_channels: of the head.
        rates: dilations of the head.
        dropout: of the head.
        test_size: shorter and largest longer side of test images.

    Raises:
        ValueError: ``c5_dilation`` below 2, which would make the stride 32, or what :class:`ResNet` refuses.
    """
    if c5_dilation < 2:
        raise ValueError(f"c5_dilation: expected 2 or more (the last stage has stride 1), got {c5_dilation}")
    backbone = ResNet(
        depth,
        width=width,
        stem_channels=stem_channels,
        groups=groups,
        base_width=base_width,
        style=style,
        pool=pool,
        c5_dilation=c5_dilation,
        deform=deformable_positions(deform_stages, BLOCKS.get(depth, (0, 0, 0, 0))),
        deform_conv=partial(DeformConv2d, modulated=modulated, offset_groups=offset_groups),
        norm=norm,
        frozen_stages=frozen_stages,
    )
    head = AsppHead(
        backbone.out_channels[3],
        num_classes,
        channels=head_channels,
        rates=rates,
        deform=deform_head,
        modulated=modulated,
        dropout=dropout,
    )
    return DeepLab(
        Preprocess(preprocess, divisor=1),
        backbone,
        head,
        classes=[f"class_{index}" for index in range(num_classes)],
        test_size=test_size,
    )
