"""Aligned-Inception-ResNet of the paper's appendix B: a reconstruction.

Published are the stages (3, 4, 23, 3 blocks of 256 to 2048 channels), "same" padding everywhere, 1x1 convolutions of
stride 2 where the dimensions change, 64.3 M parameters with the classifier of 1000 classes, and a picture of the block,
not the widths of its branches. No weights were released. Here every branch of a block has 5/32 of the block's channels,
the simple fraction that comes to 64.2 M.

Aligned means: the receptive field of cell ``i`` is centred on pixel ``stride * i`` in every map. Inception-ResNet,
which the model descends from, pads some layers and not others, and its cells drift away from where they look.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dcn.models.backbones.freezing import NormRule
from dcn.models.backbones.resnet import ConvFactory
from dcn.models.backbones.stages import FourStages

BLOCKS = (3, 4, 23, 3)
CHANNELS = (256, 512, 1024, 2048)
BRANCH_SHARE = 5 / 32


def _norm_conv(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


class InceptionResidualBlock(nn.Module):
    """Three branches of 1x1 and 3x3 convolutions (none, one and two of the latter), joined and added to the input.

    Args:
        in_channels: channels of the input.
        width: channels of each branch.
        out_channels: channels of the output.
        stride: of the first 1x1 of each branch and of the shortcut.
        dilation: of the 3x3 convolutions.
        conv3x3: makes them.
    """

    def __init__(
        self, in_channels: int, width: int, out_channels: int, *, stride: int, dilation: int, conv3x3: ConvFactory
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            self._branch(in_channels, width, stride, dilation, conv3x3, count) for count in range(3)
        )
        self.project = nn.Conv2d(3 * width, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def _branch(
        in_channels: int, width: int, stride: int, dilation: int, conv3x3: ConvFactory, count: int
    ) -> nn.Sequential:
        layers = _norm_conv(nn.Conv2d(in_channels, width, 1, stride, bias=False), width)
        for _ in range(count):
            layers += _norm_conv(conv3x3(width, width, 3, 1, dilation, dilation, 1, bias=False), width)
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, out_channels, H / stride, W / stride]``, rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        joined = torch.cat([branch(x) for branch in self.branches], 1)
        return self.relu(self.bn(self.project(joined)) + shortcut)


class AlignedInceptionResNet(FourStages):
    """The reconstructed model; it returns the outputs ``(C2, C3, C4, C5)`` of its four stages.

    Args:
        width: factor on the channels of the stages (not of the stem).
        stem_channels: channels after the first convolution.
        c5_dilation: above 1, stage 5 has stride 1 and its 3x3 convolutions this dilation (detection: 2).
        deform: blocks whose 3x3 convolutions, three in each, are deformable, and what makes them, see
            :class:`dcn.models.backbones.ResNet`.
        norm: what batch norm trains, see :class:`dcn.models.backbones.ResNet`.
        frozen_stages: 0 trains everything; ``n`` fixes the stem and the first ``n`` of the four stages.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        stem_channels: int = 64,
        c5_dilation: int = 1,
        deform: Mapping[tuple[int, int], ConvFactory] | None = None,
        norm: NormRule = "eval",
        frozen_stages: int = 1,
    ) -> None:
        super().__init__()
        self.norm, self.frozen_stages = norm, frozen_stages
        self.c5_dilation, self.deform = c5_dilation, dict(deform or {})
        self.conv1 = nn.Conv2d(3, stem_channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.out_channels = [int(channels * width) for channels in CHANNELS]
        self.strides = (4, 8, 16, 16 if c5_dilation > 1 else 32)
        if int(self.out_channels[0] * BRANCH_SHARE) < 1:
            least = 1 / (CHANNELS[0] * BRANCH_SHARE)
            raise ValueError(
                f"width: expected {least:g} or more, got {width:g}, which leaves no channels for the branches"
            )
        inputs = [stem_channels, *self.out_channels[:3]]
        self.layer1, self.layer2, self.layer3, self.layer4 = (self._stage(i + 2, inputs[i]) for i in range(4))
        self._begin()

    def _stage(self, stage: int, in_channels: int) -> nn.Sequential:
        stride, dilation = (1 if stage == 2 else 2), 1
        if stage == 5 and self.c5_dilation > 1:
            stride, dilation = 1, self.c5_dilation
        out_channels = self.out_channels[stage - 2]
        blocks = [
            InceptionResidualBlock(
                in_channels if index == 0 else out_channels,
                int(out_channels * BRANCH_SHARE),
                out_channels,
                stride=stride if index == 0 else 1,
                dilation=dilation,
                conv3x3=self.deform.get((stage, index), nn.Conv2d),
            )
            for index in range(BLOCKS[stage - 2])
        ]
        return nn.Sequential(*blocks)
