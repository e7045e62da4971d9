"""DeepLab in the form of the original MXNet code: stride 16, one hidden layer, bilinear upsampling.

There is no dropout, spatial pyramid, multi-scale input or CRF.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.models.backbones.original import DeformLayers, original_resnet
from dcn.models.backbones.resnet import NormRule, Style
from dcn.models.initialise import initialise
from dcn.models.preprocess import Preprocess, PreprocessName
from dcn.models.segmentation.model import SegmentationModel


def bilinear_kernel(stride: int) -> Tensor:
    """``[2 * stride, 2 * stride]``: the transposed convolution of this ``stride`` that interpolates linearly."""
    position = torch.arange(2 * stride, dtype=torch.float64) / stride
    line = 1 - (position - (2 * stride - 1) / (2 * stride)).abs()
    return torch.outer(line, line).float()


class DeepLabHead(nn.Module):
    """1x1 convolution with ReLU, 1x1 convolution to class scores, fixed bilinear upsampling by 16, crop.

    Args:
        in_channels: of the last map of the backbone.
        num_classes: of the scores.
        channels: of the hidden layer (the original calls it ``fc6``).
        stride: pixels per cell of that map.
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int = 1024, stride: int = 16) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(in_channels, channels, 1)
        self.score = nn.Conv2d(channels, num_classes, 1)
        initialise(self)
        self.upsampling = nn.ConvTranspose2d(
            num_classes, num_classes, 2 * stride, stride, groups=num_classes, bias=False
        )
        with torch.no_grad():
            self.upsampling.weight.copy_(bilinear_kernel(stride))
        self.upsampling.requires_grad_(False)
        self.stride = stride

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Map ``[N, in_channels, h, w]`` to scores ``[N, num_classes, *size]`` of an image of ``(height, width)``."""
        # The upsampled map is one stride larger than 16 times its input; half a stride comes off at each end.
        scores = self.upsampling(self.score(F.relu(self.fc6(features))))
        start = self.stride // 2
        return scores[:, :, start : start + size[0], start : start + size[1]]


class DeepLab(SegmentationModel):
    """A backbone and a head that scores every pixel.

    Args:
        preprocess: images to a batch.
        backbone: batch to the maps C2 to C5; the last is read.
        head: map and size to scores.
        classes: names, in the order of the labels.
        test_size: see :class:`SegmentationModel`.
        lr_multipliers: see :class:`SegmentationModel`.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        head: nn.Module,
        *,
        classes: Sequence[str],
        test_size: tuple[int, int] = (1024, 2048),
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(preprocess, classes=classes, test_size=test_size, lr_multipliers=lr_multipliers)
        self.backbone, self.head = backbone, head

    def scores(self, pixels: Tensor) -> Tensor:
        """Normalised images ``[N, 3, H, W]`` to logits ``[N, C, H, W]``."""
        scores: Tensor = self.head(self.backbone(pixels)[-1], (pixels.shape[2], pixels.shape[3]))
        return scores


def deeplab(
    num_classes: int = 19,
    *,
    depth: int = 101,
    width: float = 1.0,
    stem_channels: int = 64,
    style: Style = "caffe",
    pool: Literal["floor", "ceil"] = "ceil",
    preprocess: PreprocessName = "rgb_mean",
    norm: NormRule = "frozen",
    frozen_stages: int = 1,
    c5_dilation: int = 2,
    deform_layers: DeformLayers = 0,
    offset_groups: int = 1,
    dilated_offsets: bool = False,
    head_channels: int = 1024,
    test_size: tuple[int, int] = (1024, 2048),
) -> DeepLab:
    """DeepLab on a dilated ResNet (stride 16).

    Args:
        num_classes: all of them (Pascal VOC counts background: 21).
        depth: of the ResNet: 18, 34, 50, 101.
        width: factor on the channels of its stages.
        stem_channels: channels of its first convolution.
        style: stride in the first 1x1 (``"caffe"``) or in the 3x3 (``"pytorch"``).
        pool: pooling after its stem, see :class:`ResNet`.
        preprocess: how images are normalised, see :class:`Preprocess`.
        norm: what batch norm trains, see :class:`ResNet`.
        frozen_stages: 0 to 4, see :class:`ResNet`.
        c5_dilation: of its last stage, which has stride 1 (Table 3 of the paper: 2, 4, 6, 8).
        deform_layers: deformable 3x3 convolutions: the last so many, or stages and blocks by name.
        offset_groups: of those.
        dilated_offsets: whether their offsets are predicted with the layer's dilation (the original: no).
        head_channels: of the hidden layer.
        test_size: shorter and largest longer side of test images.
    """
    backbone = original_resnet(
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
    doubled = ["head.fc6.bias", "head.score.bias"]
    doubled += [f"backbone.{name}" for name in backbone.state_dict() if name.endswith("conv_offset.bias")]
    return DeepLab(
        Preprocess(preprocess, divisor=1),
        backbone,
        DeepLabHead(backbone.out_channels[3], num_classes, channels=head_channels),
        classes=[f"class_{index}" for index in range(num_classes)],
        test_size=test_size,
        lr_multipliers=dict.fromkeys(doubled, 2.0),
    )
