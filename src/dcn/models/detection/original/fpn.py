"""Feature Pyramid Network in the form of the original MXNet code, plain and deformable, with hard-example mining."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dcn.models.backbones import ORIGINAL_PYRAMID_BACKBONE, BackboneSpec, make_backbone
from dcn.models.detection.original.box_head import BINS, LevelRoIPool, MaxRoIPool, OffsetRoIPool, TwoLayerHead
from dcn.models.detection.original.detector import OriginalDetector
from dcn.models.detection.original.rpn import OriginalRPNHead
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
    rpn_channels: int = 512,
    fc_channels: int = 1024,
    anchor_scale: float = 8.0,
    proposals: tuple[int, int] = (12000, 2000),
    hardest: int = 512,
    max_detections: int = 100,
    score_threshold: float = 1e-3,
    test_size: tuple[int, int] = (800, 1280),
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
        rpn_channels: of the proposal network.
        fc_channels: of the two fully connected layers.
        anchor_scale: side of the anchors in cells.
        proposals: before and after suppression, all levels together.
        hardest: regions in the losses.
        max_detections: per image.
        score_threshold: detections have larger scores.
        test_size: shorter and largest longer side of test images.
    """
    module, channels = make_backbone(backbone, (4, 8, 16, 32), exactly=True)
    rpn_head = OriginalRPNHead(
        fpn_channels,
        rpn_channels,
        strides=(4, 8, 16, 32, 64),
        scales=(anchor_scale,),
        before_nms=proposals[0],
        after_nms=proposals[1],
        inside_only=False,
    )
    parts = [f"roi_head.pool.levels.{i}.offset_fc.{part}" for i in range(4) for part in ("weight", "bias")]
    return OriginalDetector(
        Preprocess(preprocess, divisor=32, pad_value="black"),
        module,
        FPN(channels, fpn_channels, extra="conv"),
        rpn_head,
        PyramidHead(fpn_channels, num_classes, fc_channels=fc_channels, deformable=deform_pool),
        rpn_maps=(0, 1, 2, 3, 4),
        roi_maps=(0, 1, 2, 3),
        classes=[f"class_{index}" for index in range(num_classes)],
        padding_counts=True,
        hardest=hardest,
        max_detections=max_detections,
        score_threshold=score_threshold,
        test_size=test_size,
        lr_multipliers=dict.fromkeys(parts if deform_pool else (), 0.01),
    )
