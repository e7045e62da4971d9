"""DeepLab in the form of the original MXNet code: stride 16, one hidden layer, bilinear upsampling.

There is no dropout, spatial pyramid, multi-scale input or CRF.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.models.backbones import ORIGINAL_BACKBONE, BackboneSpec, make_backbone
from dcn.models.initialise import initialise
from dcn.models.preprocess import Preprocess, PreprocessName
from dcn.models.segmentation.model import SegmentationModel

DEEPLAB_BACKBONE = replace(ORIGINAL_BACKBONE, offset_groups=1, dilated_offsets=False)
"""Unlike the original's detectors: one offset group, and offsets from an undilated convolution."""


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
    backbone: BackboneSpec | nn.Module = DEEPLAB_BACKBONE,
    preprocess: PreprocessName = "rgb_mean",
    head_channels: int = 1024,
    test_size: tuple[int, int] = (1024, 2048),
) -> DeepLab:
    """DeepLab on a dilated ResNet (stride 16).

    Args:
        num_classes: all of them (Pascal VOC counts background: 21).
        backbone: a spec, or a module that returns maps, the last of stride 16, see
            :func:`dcn.models.backbones.make_backbone`.
        preprocess: how images are normalised, see :class:`Preprocess`; it belongs to the backbone's weights.
        head_channels: of the hidden layer.
        test_size: shorter and largest longer side of test images.
    """
    module, channels = make_backbone(backbone, (16,))
    doubled = ["head.fc6.bias", "head.score.bias"]
    doubled += [f"backbone.{name}" for name in module.state_dict() if name.endswith("conv_offset.bias")]
    return DeepLab(
        Preprocess(preprocess, divisor=1),
        module,
        DeepLabHead(channels[-1], num_classes, channels=head_channels),
        classes=[f"class_{index}" for index in range(num_classes)],
        test_size=test_size,
        lr_multipliers=dict.fromkeys(doubled, 2.0),
    )
