"""DeepLabv3 (Chen et al. 2017): atrous spatial pyramid pooling, on any ResNet or ResNeXt of the package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.models.backbones import BackboneSpec, DeformableSpec, ResNetSpec, make_backbone
from dcn.models.preprocess import Preprocess, PreprocessName
from dcn.models.segmentation.deeplab import DeepLab
from dcn.nn import DeformConv2d

DEEPLABV3_BACKBONE = ResNetSpec(depth=50, c5_dilation=2)
"""A ResNet-50 with stride 16."""


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
    backbone: BackboneSpec | nn.Module = DEEPLABV3_BACKBONE,
    preprocess: PreprocessName = "rgb_std",
    deform_head: bool = False,
    head_channels: int = 256,
    rates: Sequence[int] = (6, 12, 18),
    dropout: float = 0.1,
    test_size: tuple[int, int] = (512, 2048),
) -> DeepLab:
    """DeepLabv3 at stride 16.

    Args:
        num_classes: all of them (Pascal VOC counts background: 21).
        backbone: a spec, or a module that returns maps, the last of stride 16, see
            :func:`dcn.models.backbones.make_backbone`.
        preprocess: how images are normalised, see :class:`Preprocess`; it belongs to the backbone's weights.
        deform_head: make the 3x3 convolutions of the head deformable; they are modulated where the spec of the backbone
            says ``modulated``.
        head_channels: of the head.
        rates: dilations of the head.
        dropout: of the head.
        test_size: shorter and largest longer side of test images.

    Raises:
        ValueError: the last map of the backbone has another stride than 16.
    """
    module, channels = make_backbone(backbone, (16,))
    head = AsppHead(
        channels[-1],
        num_classes,
        channels=head_channels,
        rates=rates,
        deform=deform_head,
        modulated=isinstance(backbone, DeformableSpec) and backbone.modulated,
        dropout=dropout,
    )
    return DeepLab(
        Preprocess(preprocess, divisor=1),
        module,
        head,
        classes=[f"class_{index}" for index in range(num_classes)],
        test_size=test_size,
    )
