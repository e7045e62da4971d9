"""Feature Pyramid Network in the form of the original MXNet code, plain and deformable, with hard-example mining."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dcn.models.backbones import ORIGINAL_PYRAMID_BACKBONE, BackboneSpec, make_backbone
from dcn.models.detection.original.box_head import BINS, LevelRoIPool, MaxRoIPool, OffsetRoIPool, TwoLayerHead
from dcn.models.detection.original.detector import OriginalDetector
from dcn.models.detection.original.specs import PYRAMID_DETECTIONS, FeatureMaps, PyramidRPNSpec, RegionTraining
from dcn.models.detection.specs import DetectionSpec
from dcn.models.necks import FPN
from dcn.models.preprocess import Preprocess, PreprocessName


class PyramidHead(nn.Module):
    """The second stage of the original FPN: pools each region from its level, classifies and refines.

    Args:
        channels: of the pyramid.
        num_classes: without background.
        fc_channels: of the two fully connected layers.
        deformable: whether the bins have learned offsets, predicted by one layer per level.
    """

    def __init__(self, channels: int, num_classes: int, *, fc_channels: int = 1024, deformable: bool = False) -> None:
        super().__init__()
        strides = (4, 8, 16, 32)
        self.pool = LevelRoIPool(
            [OffsetRoIPool(channels, stride) if deformable else MaxRoIPool(stride) for stride in strides]
        )
        self.bbox_head = TwoLayerHead(channels * BINS * BINS, num_classes, channels=fc_channels)
        self.num_classes, self.class_agnostic = num_classes, False

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Four maps and inclusive regions ``[R, 5]`` to logits ``[R, C + 1]`` and deltas ``[R, C + 1, 4]``."""
        return self.bbox_head(self.pool(features, rois))


def original_fpn(
    num_classes: int = 80,
    *,
    backbone: BackboneSpec | nn.Module = ORIGINAL_PYRAMID_BACKBONE,
    preprocess: PreprocessName = "rgb_mean",
    deform_pool: bool = False,
    fpn_channels: int = 256,
    fc_channels: int = 1024,
    rpn: PyramidRPNSpec = PyramidRPNSpec(),  # noqa: B008  # frozen
    hardest: int = 512,
    detections: DetectionSpec = PYRAMID_DETECTIONS,
) -> OriginalDetector:
    """The original FPN: five levels (the last a convolution of C5), one suppression over all of them.

    Images are padded with black to multiples of 32, and the padding counts as part of the image.

    Args:
        num_classes: without background.
        backbone: a spec, or a module that returns four maps of strides 4, 8, 16 and 32, see
            :func:`dcn.models.backbones.make_backbone`.
        preprocess: how images are normalised, see :class:`Preprocess`; it belongs to the backbone's weights.
        deform_pool: deformable RoI pooling, with offsets of its own at each level.
        fpn_channels: of the pyramid.
        fc_channels: of the two fully connected layers.
        rpn: the proposal network.
        hardest: regions in the losses.
        detections: what it returns, and the size of test images.
    """
    module, channels = make_backbone(backbone, (4, 8, 16, 32), exactly=True)
    parts = [f"roi_head.pool.levels.{i}.offset_fc.{part}" for i in range(4) for part in ("weight", "bias")]
    return OriginalDetector(
        Preprocess(preprocess, divisor=32, pad_value="black"),
        module,
        FPN(channels, fpn_channels, extra="conv"),
        rpn.build(fpn_channels),
        PyramidHead(fpn_channels, num_classes, fc_channels=fc_channels, deformable=deform_pool),
        maps=FeatureMaps(rpn=(0, 1, 2, 3, 4), roi=(0, 1, 2, 3)),
        classes=[f"class_{index}" for index in range(num_classes)],
        padding_counts=True,
        regions=RegionTraining(hardest=hardest, lr_multipliers=dict.fromkeys(parts if deform_pool else (), 0.01)),
        detections=detections,
    )
