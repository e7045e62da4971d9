"""Faster R-CNN with two fully connected layers in the form of the original MXNet code, plain and deformable."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dcn.models.backbones import ORIGINAL_BACKBONE, BackboneSpec, make_backbone
from dcn.models.detection.original.box_head import BINS, MaxRoIPool, OffsetRoIPool, TwoLayerHead
from dcn.models.detection.original.detector import OriginalDetector
from dcn.models.detection.original.specs import DETECTIONS, FeatureMaps, OriginalRPNSpec, RegionTraining
from dcn.models.detection.specs import DetectionSpec
from dcn.models.initialise import initialise
from dcn.models.preprocess import Preprocess, PreprocessName


class SingleLevelHead(nn.Module):
    """The second stage of the original Faster R-CNN: reduces the last map, pools it, classifies and refines.

    Args:
        in_channels: of the last map of the backbone.
        num_classes: without background.
        channels: of the 1x1 convolution that reduces it.
        fc_channels: of the two fully connected layers.
        deformable: whether the bins have learned offsets.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 256,
        fc_channels: int = 1024,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, channels, 1)
        initialise(self.reduce)
        self.pool = OffsetRoIPool(channels, 16) if deformable else MaxRoIPool(16)
        self.bbox_head = TwoLayerHead(channels * BINS * BINS, num_classes, channels=fc_channels)
        self.num_classes, self.class_agnostic = num_classes, False

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """One map and inclusive regions ``[R, 5]`` to logits ``[R, C + 1]`` and deltas ``[R, C + 1, 4]``."""
        return self.bbox_head(self.pool(F.relu(self.reduce(features[0])), rois))


def original_faster_rcnn(
    num_classes: int = 80,
    *,
    backbone: BackboneSpec | nn.Module = ORIGINAL_BACKBONE,
    preprocess: PreprocessName = "rgb_mean",
    deform_pool: bool = False,
    head_channels: int = 256,
    fc_channels: int = 1024,
    rpn: OriginalRPNSpec = OriginalRPNSpec(),  # noqa: B008  # frozen
    rois_per_image: int = 128,
    detections: DetectionSpec = DETECTIONS,
) -> OriginalDetector:
    """Faster R-CNN on a dilated ResNet (stride 16), trained on 128 sampled regions.

    Args:
        num_classes: without background.
        backbone: a spec, or a module that returns at least two maps, the last two of stride 16, see
            :func:`dcn.models.backbones.make_backbone`.
        preprocess: how images are normalised, see :class:`Preprocess`; it belongs to the backbone's weights.
        deform_pool: deformable RoI pooling.
        head_channels: of the map that regions are pooled from.
        fc_channels: of the two fully connected layers.
        rpn: the proposal network.
        rois_per_image: in the losses, at most a quarter of them objects.
        detections: what it returns, and the size of test images.
    """
    module, channels = make_backbone(backbone, (16, 16))
    head = SingleLevelHead(
        channels[-1], num_classes, channels=head_channels, fc_channels=fc_channels, deformable=deform_pool
    )
    slow = ("roi_head.pool.offset_fc.weight", "roi_head.pool.offset_fc.bias") if deform_pool else ()
    return OriginalDetector(
        Preprocess(preprocess, divisor=1),
        module,
        nn.Identity(),
        rpn.build(channels[-2]),
        head,
        maps=FeatureMaps(rpn=(-2,), roi=(-1,)),
        classes=[f"class_{index}" for index in range(num_classes)],
        regions=RegionTraining(
            rois_per_image=rois_per_image,
            hardest=None,
            lowest_negative_iou=0.1,
            lr_multipliers=dict.fromkeys(slow, 0.01),
        ),
        detections=detections,
    )
