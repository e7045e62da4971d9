"""The builder of the detectors on a feature pyramid, with the published numbers."""

from __future__ import annotations

from typing import Literal

from torch import nn

from dcn.models.backbones import RESNET50, BackboneSpec, make_backbone
from dcn.models.detection.pyramid.box_head import BoxHead
from dcn.models.detection.pyramid.cascade_rcnn import STAGE_STDS, CascadeRoIHead
from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.models.detection.pyramid.mask_head import MaskHead
from dcn.models.detection.pyramid.roi_extractor import RoIAlign, RoIExtractor
from dcn.models.detection.pyramid.roi_heads import StandardRoIHead
from dcn.models.detection.pyramid.rpn import RPNHead
from dcn.models.necks import FPN
from dcn.models.preprocess import Preprocess, PreprocessName
from dcn.nn import DeformRoIPool, ModulatedDeformRoIPool

RoIPooling = Literal["align", "deform", "modulated"]

_ROI_STRIDES = (4, 8, 16, 32)


def rcnn_fpn(
    num_classes: int = 80,
    *,
    backbone: BackboneSpec | nn.Module = RESNET50,
    preprocess: PreprocessName = "rgb_std",
    fpn_channels: int = 256,
    fc_channels: int = 1024,
    anchor_scale: float = 8.0,
    train_proposals: tuple[int, int] = (2000, 1000),
    test_proposals: tuple[int, int] = (1000, 1000),
    rois_per_image: int = 512,
    roi_pooling: RoIPooling = "align",
    cascade: bool = False,
    masks: bool = False,
    max_detections: int = 100,
    score_threshold: float = 0.05,
    test_size: tuple[int, int] = (800, 1333),
) -> FasterRCNN:
    """Faster R-CNN with FPN, or with ``cascade`` and ``masks`` its three relatives, as mmdetection defines them.

    Args:
        num_classes: without background.
        backbone: a spec, or a module that returns four maps of strides 4, 8, 16 and 32, see
            :func:`dcn.models.backbones.make_backbone`.
        preprocess: how images are normalised, see :class:`Preprocess`; it belongs to the backbone's weights.
        fpn_channels: of the pyramid, the proposal network and the mask head.
        fc_channels: of the box head, and of the offset branches of deformable RoI pooling.
        anchor_scale: side of the anchors in cells.
        train_proposals: per level before, and per image after suppression, in training.
        test_proposals: the same in evaluation.
        rois_per_image: regions sampled for the second stage.
        roi_pooling: ``"align"``, or deformable RoI pooling, plain (``"deform"``) or ``"modulated"``, for the box head.
        cascade: three box heads in a row; the proposal network then follows Cascade R-CNN.
        masks: a mask head (per stage of a cascade).
        max_detections: per image.
        score_threshold: detections have larger scores.
        test_size: shorter and largest longer side of test images.
    """
    module, channels = make_backbone(backbone, _ROI_STRIDES, exactly=True)
    rpn_head = RPNHead(
        fpn_channels,
        scale=anchor_scale,
        train_proposals=train_proposals,
        test_proposals=test_proposals,
        inside_only=cascade,
        beta=1 / 9 if cascade else 0.0,
    )
    extractors = [
        _box_extractor(roi_pooling, fpn_channels, fc_channels) for _ in range(len(STAGE_STDS) if cascade else 1)
    ]
    make_head = _cascade_head if cascade else _standard_head
    return FasterRCNN(
        Preprocess(preprocess),
        module,
        FPN(channels, fpn_channels),
        rpn_head,
        make_head(extractors, num_classes, fpn_channels, fc_channels, masks, rois_per_image, max_detections),
        classes=[f"class_{index}" for index in range(num_classes)],
        test_size=test_size,
        score_threshold=score_threshold,
    )


def _box_extractor(roi_pooling: RoIPooling, channels: int, fc_channels: int) -> RoIExtractor:
    if roi_pooling == "align":
        return RoIExtractor([RoIAlign(7, stride) for stride in _ROI_STRIDES])
    pools = {"deform": DeformRoIPool, "modulated": ModulatedDeformRoIPool}
    if roi_pooling not in pools:
        raise ValueError(f"roi_pooling: expected 'align', 'deform' or 'modulated', got {roi_pooling!r}")
    return RoIExtractor([pools[roi_pooling](7, channels, fc_channels, 1 / stride) for stride in _ROI_STRIDES])


def _mask_extractor(masks: bool) -> RoIExtractor | None:
    return RoIExtractor([RoIAlign(14, stride) for stride in _ROI_STRIDES]) if masks else None


def _standard_head(
    extractors: list[RoIExtractor],
    num_classes: int,
    channels: int,
    fc_channels: int,
    masks: bool,
    rois: int,
    detections: int,
) -> StandardRoIHead:
    return StandardRoIHead(
        extractors[0],
        BoxHead(channels * 7 * 7, num_classes, fc_channels=fc_channels),
        _mask_extractor(masks),
        MaskHead(channels, num_classes, channels=channels) if masks else None,
        rois_per_image=rois,
        low_quality="reassign" if masks else "none",  # mmdetection's settings of Mask and of Faster R-CNN
        max_detections=detections,
    )


def _cascade_head(
    extractors: list[RoIExtractor],
    num_classes: int,
    channels: int,
    fc_channels: int,
    masks: bool,
    rois: int,
    detections: int,
) -> CascadeRoIHead:
    heads = [
        BoxHead(channels * 7 * 7, num_classes, fc_channels=fc_channels, class_agnostic=True, stds=stds, beta=1.0)
        for stds in STAGE_STDS
    ]
    mask_heads = [MaskHead(channels, num_classes, channels=channels) for _ in STAGE_STDS] if masks else None
    return CascadeRoIHead(
        extractors,
        heads,
        _mask_extractor(masks),
        mask_heads,
        rois_per_image=rois,
        max_detections=detections,
    )
