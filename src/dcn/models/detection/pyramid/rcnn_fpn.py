"""The builder of the detectors on a feature pyramid, with the published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from dcn.models.backbones import ResNet, deformable_positions
from dcn.models.backbones.resnet import BLOCKS, NormRule, Style
from dcn.models.detection.pyramid.box_head import BoxHead
from dcn.models.detection.pyramid.cascade_rcnn import STAGE_STDS, CascadeRoIHead
from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.models.detection.pyramid.mask_head import MaskHead
from dcn.models.detection.pyramid.roi_extractor import RoIAlign, RoIExtractor
from dcn.models.detection.pyramid.roi_heads import StandardRoIHead
from dcn.models.detection.pyramid.rpn import RPNHead
from dcn.models.necks import FPN
from dcn.models.preprocess import Preprocess, PreprocessName
from dcn.nn import DeformConv2d, DeformRoIPool, ModulatedDeformRoIPool

RoIPooling = Literal["align", "deform", "modulated"]

_ROI_STRIDES = (4, 8, 16, 32)


def rcnn_fpn(
    num_classes: int = 80,
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
    deform_stages: Sequence[str] = (),
    modulated: bool = False,
    offset_groups: int = 1,
    boundary: Literal["v1", "v2"] = "v2",
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
        depth: of the ResNet: 18, 34, 50, 101.
        width: factor on the channels of its stages.
        stem_channels: channels of its first convolution.
        groups: groups of its 3x3 convolutions (ResNeXt-32x4d: 32).
        base_width: their width per group (ResNeXt-32x4d: 4).
        style: stride in the first 1x1 (``"caffe"``) or in the 3x3 (``"pytorch"``).
        pool: pooling after its stem, see :class:`ResNet`.
        preprocess: how images are normalised, see :class:`Preprocess`.
        norm: what batch norm trains, see :class:`ResNet`.
        frozen_stages: 0 to 4, see :class:`ResNet`.
        deform_stages: deformable 3x3 convolutions: stages (``"c3"``) or blocks (``"c5.2"``).
        modulated: whether those have a mask (v2).
        offset_groups: of those.
        boundary: rule at the image border of those.
        fpn_channels: of the pyramid, the proposal network and the mask head.
        fc_channels: of the box head, and of the offset branches of deformable RoI pooling.
        anchor_scale: side of the anchors in cells.
        train_proposals: per level before, and per image after suppression, in training.
        test_proposals: likewise in evaluation.
        rois_per_image: regions sampled for the second stage.
        roi_pooling: ``"align"``, or deformable RoI pooling, plain (``"deform"``) or ``"modulated"``, for the box head.
        cascade: three box heads in a row; the proposal network then follows Cascade R-CNN.
        masks: a mask head (per stage of a cascade).
        max_detections: per image.
        score_threshold: detections have larger scores.
        test_size: shorter and largest longer side of test images.
    """
    deform_conv = partial(DeformConv2d, modulated=modulated, offset_groups=offset_groups, boundary=boundary)
    backbone = ResNet(
        depth,
        width=width,
        stem_channels=stem_channels,
        groups=groups,
        base_width=base_width,
        style=style,
        pool=pool,
        deform=deformable_positions(deform_stages, BLOCKS.get(depth, ())),
        deform_conv=deform_conv,
        norm=norm,
        frozen_stages=frozen_stages,
    )
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
        backbone,
        FPN(backbone.out_channels, fpn_channels),
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
