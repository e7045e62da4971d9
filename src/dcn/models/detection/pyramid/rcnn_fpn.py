"""The builder of the detectors on a feature pyramid, with the published numbers."""

from __future__ import annotations

from torch import nn

from dcn.models.backbones import RESNET50, BackboneSpec, make_backbone
from dcn.models.detection.pyramid.box_head import BoxHead
from dcn.models.detection.pyramid.cascade_rcnn import STAGE_STDS, CascadeRoIHead
from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.models.detection.pyramid.mask_head import MaskHead
from dcn.models.detection.pyramid.roi_extractor import RoIAlign, RoIExtractor
from dcn.models.detection.pyramid.roi_heads import StandardRoIHead
from dcn.models.detection.pyramid.rpn import RPNHead
from dcn.models.detection.pyramid.specs import RoIHeadSpec, RPNSpec
from dcn.models.detection.shared.anchors import AnchorShapes
from dcn.models.detection.specs import DetectionSpec
from dcn.models.necks import FPN
from dcn.models.preprocess import Preprocess, PreprocessName
from dcn.nn import DeformRoIPool, ModulatedDeformRoIPool

_ROI_STRIDES = (4, 8, 16, 32)


def rcnn_fpn(
    num_classes: int = 80,
    *,
    backbone: BackboneSpec | nn.Module = RESNET50,
    preprocess: PreprocessName = "rgb_std",
    fpn_channels: int = 256,
    rpn: RPNSpec = RPNSpec(),  # noqa: B008  # frozen, as the other specs
    roi_head: RoIHeadSpec = RoIHeadSpec(),  # noqa: B008
    cascade: bool = False,
    masks: bool = False,
    detections: DetectionSpec = DetectionSpec(),  # noqa: B008
) -> FasterRCNN:
    """Faster R-CNN with FPN, or with ``cascade`` and ``masks`` its three relatives, as mmdetection defines them.

    Args:
        num_classes: without background.
        backbone: a spec, or a module that returns four maps of strides 4, 8, 16 and 32, see
            :func:`dcn.models.backbones.make_backbone`.
        preprocess: how images are normalised, see :class:`Preprocess`; it belongs to the backbone's weights.
        fpn_channels: of the pyramid, the proposal network and the mask head.
        rpn: the proposal network.
        roi_head: the second stage.
        cascade: three box heads in a row; the proposal network then follows Cascade R-CNN.
        masks: a mask head (per stage of a cascade).
        detections: what it returns, and the size of test images.
    """
    module, channels = make_backbone(backbone, _ROI_STRIDES, exactly=True)
    rpn_head = RPNHead(
        fpn_channels,
        anchors=AnchorShapes((*_ROI_STRIDES, 64), (rpn.anchor_scale,)),
        train_proposals=rpn.train_proposals,
        test_proposals=rpn.test_proposals,
        inside_only=cascade,
        beta=1 / 9 if cascade else 0.0,
    )
    make_head = _cascade_head if cascade else _standard_head
    return FasterRCNN(
        Preprocess(preprocess),
        module,
        FPN(channels, fpn_channels),
        rpn_head,
        make_head(roi_head, num_classes, fpn_channels, masks, detections.max_detections),
        classes=[f"class_{index}" for index in range(num_classes)],
        test_size=detections.test_size,
        score_threshold=detections.score_threshold,
    )


def _box_extractor(spec: RoIHeadSpec, channels: int) -> RoIExtractor:
    if spec.roi_pooling == "align":
        return RoIExtractor([RoIAlign(7, stride) for stride in _ROI_STRIDES])
    pools = {"deform": DeformRoIPool, "modulated": ModulatedDeformRoIPool}
    if spec.roi_pooling not in pools:
        raise ValueError(f"roi_pooling: expected 'align', 'deform' or 'modulated', got {spec.roi_pooling!r}")
    pool = pools[spec.roi_pooling]
    return RoIExtractor([pool(7, channels, spec.fc_channels, 1 / stride) for stride in _ROI_STRIDES])


def _mask_extractor(masks: bool) -> RoIExtractor | None:
    return RoIExtractor([RoIAlign(14, stride) for stride in _ROI_STRIDES]) if masks else None


def _standard_head(
    spec: RoIHeadSpec, num_classes: int, channels: int, masks: bool, max_detections: int
) -> StandardRoIHead:
    return StandardRoIHead(
        _box_extractor(spec, channels),
        BoxHead(channels * 7 * 7, num_classes, fc_channels=spec.fc_channels),
        _mask_extractor(masks),
        MaskHead(channels, num_classes, channels=channels) if masks else None,
        rois_per_image=spec.rois_per_image,
        low_quality="reassign" if masks else "none",  # mmdetection's settings of Mask and of Faster R-CNN
        max_detections=max_detections,
    )


def _cascade_head(
    spec: RoIHeadSpec, num_classes: int, channels: int, masks: bool, max_detections: int
) -> CascadeRoIHead:
    extractors = [_box_extractor(spec, channels) for _ in STAGE_STDS]
    heads = [
        BoxHead(channels * 7 * 7, num_classes, fc_channels=spec.fc_channels, class_agnostic=True, stds=stds, beta=1.0)
        for stds in STAGE_STDS
    ]
    mask_heads = [MaskHead(channels, num_classes, channels=channels) for _ in STAGE_STDS] if masks else None
    return CascadeRoIHead(
        extractors,
        heads,
        _mask_extractor(masks),
        mask_heads,
        rois_per_image=spec.rois_per_image,
        average=spec.cascade_average,
        max_detections=max_detections,
    )
