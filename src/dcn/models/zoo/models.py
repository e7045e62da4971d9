"""Every model by name: the one literal table.

Names of the pyramid detectors are those of mmdetection's configuration files without the schedule. Those of the
original code end in what is deformable: ``_dcn`` (all that the authors released), ``_dconv3`` (the last three 3x3
convolutions), ``_dpool`` (RoI pooling alone), or in the dilation of stage 5 where it is not 2 (``_atrous4``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from dcn.models.backbones import (
    ORIGINAL_BACKBONE,
    ORIGINAL_PYRAMID_BACKBONE,
    AlignedInceptionResNetSpec,
    ResNetSpec,
)
from dcn.models.detection.detector import Detector
from dcn.models.detection.original.class_aware_rpn import class_aware_rpn
from dcn.models.detection.original.faster_rcnn import original_faster_rcnn
from dcn.models.detection.original.fpn import original_fpn
from dcn.models.detection.original.rfcn import rfcn
from dcn.models.detection.pyramid.rcnn_fpn import rcnn_fpn
from dcn.models.detection.pyramid.specs import RoIHeadSpec, RPNSpec
from dcn.models.segmentation.deeplab import DEEPLAB_BACKBONE, deeplab
from dcn.models.segmentation.deeplabv3 import deeplabv3
from dcn.models.segmentation.model import SegmentationModel
from dcn.plugins import Table

_C3_C5 = ("c3", "c4", "c5")
_DPOOL: dict[str, Any] = {"roi_head": RoIHeadSpec(roi_pooling="deform")}
_MDPOOL: dict[str, Any] = {"roi_head": RoIHeadSpec(roi_pooling="modulated")}

_R18, _R34, _R50, _R101 = (ResNetSpec(depth=depth) for depth in (18, 34, 50, 101))
_X101 = ResNetSpec(depth=101, groups=32, base_width=4)


def _dconv(spec: ResNetSpec) -> ResNetSpec:
    """Every 3x3 convolution of stages 3 to 5 deformable."""
    return replace(spec, deform_layers=_C3_C5)


def _atrous(spec: ResNetSpec) -> ResNetSpec:
    """The last stage with stride 16 instead of 32."""
    return replace(spec, c5_dilation=2)


def _mdconv(spec: ResNetSpec, offset_groups: int = 1) -> ResNetSpec:
    """The same, modulated."""
    return replace(spec, deform_layers=_C3_C5, modulated=True, offset_groups=offset_groups)


_stride16 = partial(replace, ORIGINAL_BACKBONE)
_stride32 = partial(replace, ORIGINAL_PYRAMID_BACKBONE)
_deeplab = partial(replace, DEEPLAB_BACKBONE)
_ALIGNED = AlignedInceptionResNetSpec(norm="frozen", boundary="v1", offset_groups=4, c5_dilation=2)
_ALIGNED_DEFORMABLE = replace(_ALIGNED, deform_layers=3)

_faster = rcnn_fpn
_mask = partial(rcnn_fpn, masks=True)
_cascade = partial(rcnn_fpn, cascade=True, rpn=RPNSpec(train_proposals=(2000, 2000)))
_cascade_mask = partial(_cascade, masks=True)

Model = Detector | SegmentationModel

_OWN: dict[str, Callable[..., Model]] = {
    # Faster R-CNN, small backbones (ours)
    "faster_rcnn_r18_fpn": partial(_faster, backbone=_R18),
    "faster_rcnn_r18_fpn_dconv_c3-c5": partial(_faster, backbone=_dconv(_R18)),
    "faster_rcnn_r18_fpn_mdconv_c3-c5": partial(_faster, backbone=_mdconv(_R18)),
    "faster_rcnn_r34_fpn": partial(_faster, backbone=_R34),
    "faster_rcnn_r34_fpn_dconv_c3-c5": partial(_faster, backbone=_dconv(_R34)),
    "faster_rcnn_r34_fpn_mdconv_c3-c5": partial(_faster, backbone=_mdconv(_R34)),
    # Faster R-CNN
    "faster_rcnn_r50_fpn": partial(_faster, backbone=_R50),
    "faster_rcnn_r50_fpn_dconv_c3-c5": partial(_faster, backbone=_dconv(_R50)),
    "faster_rcnn_r50_fpn_mdconv_c3-c5": partial(_faster, backbone=_mdconv(_R50)),
    "faster_rcnn_r50_fpn_mdconv_c3-c5_group4": partial(_faster, backbone=_mdconv(_R50, 4)),
    "faster_rcnn_r50_fpn_dpool": partial(_faster, backbone=_R50, **_DPOOL),
    "faster_rcnn_r50_fpn_mdpool": partial(_faster, backbone=_R50, **_MDPOOL),
    "faster_rcnn_r101_fpn": partial(_faster, backbone=_R101),
    "faster_rcnn_r101_fpn_dconv_c3-c5": partial(_faster, backbone=_dconv(_R101)),
    "faster_rcnn_x101_32x4d_fpn": partial(_faster, backbone=_X101),
    "faster_rcnn_x101_32x4d_fpn_dconv_c3-c5": partial(_faster, backbone=_dconv(_X101)),
    # Mask R-CNN; the fp16 rows differ in the recipe alone
    "mask_rcnn_r18_fpn": partial(_mask, backbone=_R18),
    "mask_rcnn_r50_fpn": partial(_mask, backbone=_R50),
    "mask_rcnn_r50_fpn_dconv_c3-c5": partial(_mask, backbone=_dconv(_R50)),
    "mask_rcnn_r50_fpn_mdconv_c3-c5": partial(_mask, backbone=_mdconv(_R50)),
    "mask_rcnn_r50_fpn_mdconv_c3-c5_group4": partial(_mask, backbone=_mdconv(_R50, 4)),
    "mask_rcnn_r50_fpn_dpool": partial(_mask, backbone=_R50, **_DPOOL),
    "mask_rcnn_r50_fpn_mdpool": partial(_mask, backbone=_R50, **_MDPOOL),
    "mask_rcnn_r50_fpn_fp16_dconv_c3-c5": partial(_mask, backbone=_dconv(_R50)),
    "mask_rcnn_r50_fpn_fp16_mdconv_c3-c5": partial(_mask, backbone=_mdconv(_R50)),
    "mask_rcnn_r101_fpn": partial(_mask, backbone=_R101),
    "mask_rcnn_r101_fpn_dconv_c3-c5": partial(_mask, backbone=_dconv(_R101)),
    "mask_rcnn_x101_32x4d_fpn": partial(_mask, backbone=_X101),
    "mask_rcnn_x101_32x4d_fpn_dconv_c3-c5": partial(_mask, backbone=_dconv(_X101)),
    # Cascade R-CNN
    "cascade_rcnn_r18_fpn": partial(_cascade, backbone=_R18),
    "cascade_rcnn_r50_fpn": partial(_cascade, backbone=_R50),
    "cascade_rcnn_r50_fpn_dconv_c3-c5": partial(_cascade, backbone=_dconv(_R50)),
    "cascade_rcnn_r50_fpn_mdconv_c3-c5": partial(_cascade, backbone=_mdconv(_R50)),
    "cascade_rcnn_r50_fpn_mdconv_c3-c5_group4": partial(_cascade, backbone=_mdconv(_R50, 4)),
    "cascade_rcnn_r50_fpn_dpool": partial(_cascade, backbone=_R50, **_DPOOL),
    "cascade_rcnn_r50_fpn_mdpool": partial(_cascade, backbone=_R50, **_MDPOOL),
    "cascade_rcnn_r101_fpn": partial(_cascade, backbone=_R101),
    "cascade_rcnn_r101_fpn_dconv_c3-c5": partial(_cascade, backbone=_dconv(_R101)),
    "cascade_rcnn_x101_32x4d_fpn": partial(_cascade, backbone=_X101),
    "cascade_rcnn_x101_32x4d_fpn_dconv_c3-c5": partial(_cascade, backbone=_dconv(_X101)),
    # Cascade Mask R-CNN
    "cascade_mask_rcnn_r18_fpn": partial(_cascade_mask, backbone=_R18),
    "cascade_mask_rcnn_r50_fpn": partial(_cascade_mask, backbone=_R50),
    "cascade_mask_rcnn_r50_fpn_dconv_c3-c5": partial(_cascade_mask, backbone=_dconv(_R50)),
    "cascade_mask_rcnn_r50_fpn_mdconv_c3-c5": partial(_cascade_mask, backbone=_mdconv(_R50)),
    "cascade_mask_rcnn_r50_fpn_mdconv_c3-c5_group4": partial(_cascade_mask, backbone=_mdconv(_R50, 4)),
    "cascade_mask_rcnn_r50_fpn_dpool": partial(_cascade_mask, backbone=_R50, **_DPOOL),
    "cascade_mask_rcnn_r50_fpn_mdpool": partial(_cascade_mask, backbone=_R50, **_MDPOOL),
    "cascade_mask_rcnn_r101_fpn": partial(_cascade_mask, backbone=_R101),
    "cascade_mask_rcnn_r101_fpn_dconv_c3-c5": partial(_cascade_mask, backbone=_dconv(_R101)),
    "cascade_mask_rcnn_x101_32x4d_fpn": partial(_cascade_mask, backbone=_X101),
    "cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5": partial(_cascade_mask, backbone=_dconv(_X101)),
    # The models of the original MXNet code, number for number
    "rfcn_r101": rfcn,
    "rfcn_r101_dcn": partial(rfcn, backbone=_stride16(deform_layers=3), deform_pool=True),
    "rcnn_r101": original_faster_rcnn,
    "rcnn_r101_dcn": partial(original_faster_rcnn, backbone=_stride16(deform_layers=3), deform_pool=True),
    "fpn_r101": original_fpn,
    "fpn_r101_dcn": partial(original_fpn, backbone=_stride32(deform_layers=("c3.3", "c4.22", "c5")), deform_pool=True),
    "deeplab_r101": deeplab,
    "deeplab_r101_dcn": partial(deeplab, backbone=_deeplab(deform_layers=3)),
    # The paper's class-aware proposal network, which has no public code
    "rpn_r101": class_aware_rpn,
    "rpn_r101_dcn": partial(class_aware_rpn, backbone=_stride16(deform_layers=3)),
    # Table 1 of the paper: how many layers are deformable
    "rfcn_r101_dconv1": partial(rfcn, backbone=_stride16(deform_layers=1)),
    "rfcn_r101_dconv2": partial(rfcn, backbone=_stride16(deform_layers=2)),
    "rfcn_r101_dconv3": partial(rfcn, backbone=_stride16(deform_layers=3)),
    "rfcn_r101_dconv6": partial(rfcn, backbone=_stride16(deform_layers=6)),
    "rcnn_r101_dconv1": partial(original_faster_rcnn, backbone=_stride16(deform_layers=1)),
    "rcnn_r101_dconv2": partial(original_faster_rcnn, backbone=_stride16(deform_layers=2)),
    "rcnn_r101_dconv3": partial(original_faster_rcnn, backbone=_stride16(deform_layers=3)),
    "rcnn_r101_dconv6": partial(original_faster_rcnn, backbone=_stride16(deform_layers=6)),
    "rpn_r101_dconv1": partial(class_aware_rpn, backbone=_stride16(deform_layers=1)),
    "rpn_r101_dconv2": partial(class_aware_rpn, backbone=_stride16(deform_layers=2)),
    "rpn_r101_dconv6": partial(class_aware_rpn, backbone=_stride16(deform_layers=6)),
    "deeplab_r101_dconv1": partial(deeplab, backbone=_deeplab(deform_layers=1)),
    "deeplab_r101_dconv2": partial(deeplab, backbone=_deeplab(deform_layers=2)),
    "deeplab_r101_dconv6": partial(deeplab, backbone=_deeplab(deform_layers=6)),
    # Table 3: larger dilations, and deformable RoI pooling alone
    "rfcn_r101_atrous4": partial(rfcn, backbone=_stride16(c5_dilation=4)),
    "rfcn_r101_atrous6": partial(rfcn, backbone=_stride16(c5_dilation=6)),
    "rfcn_r101_atrous8": partial(rfcn, backbone=_stride16(c5_dilation=8)),
    "rfcn_r101_dpool": partial(rfcn, deform_pool=True),
    "rcnn_r101_atrous4": partial(original_faster_rcnn, backbone=_stride16(c5_dilation=4)),
    "rcnn_r101_atrous6": partial(original_faster_rcnn, backbone=_stride16(c5_dilation=6)),
    "rcnn_r101_atrous8": partial(original_faster_rcnn, backbone=_stride16(c5_dilation=8)),
    "rcnn_r101_dpool": partial(original_faster_rcnn, deform_pool=True),
    "rpn_r101_atrous4": partial(class_aware_rpn, backbone=_stride16(c5_dilation=4)),
    "rpn_r101_atrous6": partial(class_aware_rpn, backbone=_stride16(c5_dilation=6)),
    "rpn_r101_atrous8": partial(class_aware_rpn, backbone=_stride16(c5_dilation=8)),
    "deeplab_r101_atrous4": partial(deeplab, backbone=_deeplab(c5_dilation=4)),
    "deeplab_r101_atrous6": partial(deeplab, backbone=_deeplab(c5_dilation=6)),
    "deeplab_r101_atrous8": partial(deeplab, backbone=_deeplab(c5_dilation=8)),
    # Table 5: the reconstructed Aligned-Inception-ResNet
    "rfcn_aligned_inception_resnet": partial(rfcn, backbone=_ALIGNED),
    "rfcn_aligned_inception_resnet_dcn": partial(rfcn, backbone=_ALIGNED_DEFORMABLE, deform_pool=True),
    "rcnn_aligned_inception_resnet": partial(original_faster_rcnn, backbone=_ALIGNED),
    "rcnn_aligned_inception_resnet_dcn": partial(original_faster_rcnn, backbone=_ALIGNED_DEFORMABLE, deform_pool=True),
    # The same on smaller backbones (ours)
    "rfcn_r50": partial(rfcn, backbone=_stride16(depth=50)),
    "rfcn_r50_dcn": partial(rfcn, backbone=_stride16(depth=50, deform_layers=3), deform_pool=True),
    "rcnn_r50": partial(original_faster_rcnn, backbone=_stride16(depth=50)),
    "rcnn_r50_dcn": partial(original_faster_rcnn, backbone=_stride16(depth=50, deform_layers=3), deform_pool=True),
    "fpn_r50": partial(original_fpn, backbone=_stride32(depth=50)),
    "fpn_r50_dcn": partial(
        original_fpn, backbone=_stride32(depth=50, deform_layers=("c3.3", "c4.5", "c5")), deform_pool=True
    ),
    "rpn_r50": partial(class_aware_rpn, backbone=_stride16(depth=50)),
    "rpn_r50_dcn": partial(class_aware_rpn, backbone=_stride16(depth=50, deform_layers=3)),
    "deeplab_r18": partial(deeplab, backbone=_deeplab(depth=18)),
    "deeplab_r18_dcn": partial(deeplab, backbone=_deeplab(depth=18, deform_layers=2)),
    "deeplab_r50": partial(deeplab, backbone=_deeplab(depth=50)),
    "deeplab_r50_dcn": partial(deeplab, backbone=_deeplab(depth=50, deform_layers=3)),
    # DeepLabv3 at stride 16
    "deeplabv3_r18": partial(deeplabv3, backbone=_atrous(_R18)),
    "deeplabv3_r50": partial(deeplabv3, backbone=_atrous(_R50)),
    "deeplabv3_r50_dconv_c3-c5": partial(deeplabv3, backbone=_dconv(_atrous(_R50))),
    "deeplabv3_r50_mdconv_c3-c5": partial(deeplabv3, backbone=_mdconv(_atrous(_R50))),
    "deeplabv3_r50_dconv_head": partial(deeplabv3, backbone=_atrous(_R50), deform_head=True),
    "deeplabv3_r101": partial(deeplabv3, backbone=_atrous(_R101)),
    "deeplabv3_r101_dconv_c3-c5": partial(deeplabv3, backbone=_dconv(_atrous(_R101))),
    "deeplabv3_r101_dconv_head": partial(deeplabv3, backbone=_atrous(_R101), deform_head=True),
    "deeplabv3_x101_32x4d": partial(deeplabv3, backbone=_atrous(_X101)),
}

MODELS = Table("dcn.models", _OWN, "a function of num_classes and keyword options that returns a model", callable)
"""Builders by name; those of plug-ins among them."""
