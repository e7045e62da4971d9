"""Every model by name: the one literal table.

Names of the pyramid detectors are those of mmdetection's configuration files without the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from dcn.models.detection.class_aware_rpn import class_aware_rpn
from dcn.models.detection.faster_rcnn import rcnn_fpn
from dcn.models.detection.original_faster_rcnn import original_faster_rcnn
from dcn.models.detection.original_fpn import original_fpn
from dcn.models.detection.rfcn import rfcn
from dcn.models.segmentation.deeplab import deeplab
from dcn.models.segmentation.deeplabv3 import deeplabv3

_C3_C5 = ("c3", "c4", "c5")

_faster = rcnn_fpn
_mask = partial(rcnn_fpn, masks=True)
_cascade = partial(rcnn_fpn, cascade=True, train_proposals=(2000, 2000))
_cascade_mask = partial(_cascade, masks=True)

MODELS: dict[str, Callable[..., nn.Module]] = {
    # Faster R-CNN, small backbones (ours)
    "faster_rcnn_r18_fpn": partial(_faster, depth=18),
    "faster_rcnn_r18_fpn_dconv_c3-c5": partial(_faster, depth=18, deform_stages=_C3_C5),
    "faster_rcnn_r18_fpn_mdconv_c3-c5": partial(_faster, depth=18, deform_stages=_C3_C5, modulated=True),
    "faster_rcnn_r34_fpn": partial(_faster, depth=34),
    "faster_rcnn_r34_fpn_dconv_c3-c5": partial(_faster, depth=34, deform_stages=_C3_C5),
    "faster_rcnn_r34_fpn_mdconv_c3-c5": partial(_faster, depth=34, deform_stages=_C3_C5, modulated=True),
    # Faster R-CNN
    "faster_rcnn_r50_fpn": partial(_faster, depth=50),
    "faster_rcnn_r50_fpn_dconv_c3-c5": partial(_faster, depth=50, deform_stages=_C3_C5),
    "faster_rcnn_r50_fpn_mdconv_c3-c5": partial(_faster, depth=50, deform_stages=_C3_C5, modulated=True),
    "faster_rcnn_r50_fpn_mdconv_c3-c5_group4": partial(
        _faster, depth=50, deform_stages=_C3_C5, modulated=True, offset_groups=4
    ),
    "faster_rcnn_r50_fpn_dpool": partial(_faster, depth=50, roi_pooling="deform"),
    "faster_rcnn_r50_fpn_mdpool": partial(_faster, depth=50, roi_pooling="modulated"),
    "faster_rcnn_r101_fpn": partial(_faster, depth=101),
    "faster_rcnn_r101_fpn_dconv_c3-c5": partial(_faster, depth=101, deform_stages=_C3_C5),
    "faster_rcnn_x101_32x4d_fpn": partial(_faster, depth=101, groups=32, base_width=4),
    "faster_rcnn_x101_32x4d_fpn_dconv_c3-c5": partial(
        _faster, depth=101, groups=32, base_width=4, deform_stages=_C3_C5
    ),
    # Mask R-CNN; the fp16 rows differ in the recipe alone
    "mask_rcnn_r18_fpn": partial(_mask, depth=18),
    "mask_rcnn_r50_fpn": partial(_mask, depth=50),
    "mask_rcnn_r50_fpn_dconv_c3-c5": partial(_mask, depth=50, deform_stages=_C3_C5),
    "mask_rcnn_r50_fpn_mdconv_c3-c5": partial(_mask, depth=50, deform_stages=_C3_C5, modulated=True),
    "mask_rcnn_r50_fpn_fp16_dconv_c3-c5": partial(_mask, depth=50, deform_stages=_C3_C5),
    "mask_rcnn_r50_fpn_fp16_mdconv_c3-c5": partial(_mask, depth=50, deform_stages=_C3_C5, modulated=True),
    "mask_rcnn_r101_fpn": partial(_mask, depth=101),
    "mask_rcnn_r101_fpn_dconv_c3-c5": partial(_mask, depth=101, deform_stages=_C3_C5),
    "mask_rcnn_x101_32x4d_fpn": partial(_mask, depth=101, groups=32, base_width=4),
    # Cascade R-CNN
    "cascade_rcnn_r18_fpn": partial(_cascade, depth=18),
    "cascade_rcnn_r50_fpn": partial(_cascade, depth=50),
    "cascade_rcnn_r50_fpn_dconv_c3-c5": partial(_cascade, depth=50, deform_stages=_C3_C5),
    "cascade_rcnn_r101_fpn": partial(_cascade, depth=101),
    "cascade_rcnn_r101_fpn_dconv_c3-c5": partial(_cascade, depth=101, deform_stages=_C3_C5),
    "cascade_rcnn_x101_32x4d_fpn": partial(_cascade, depth=101, groups=32, base_width=4),
    # Cascade Mask R-CNN
    "cascade_mask_rcnn_r18_fpn": partial(_cascade_mask, depth=18),
    "cascade_mask_rcnn_r50_fpn": partial(_cascade_mask, depth=50),
    "cascade_mask_rcnn_r50_fpn_dconv_c3-c5": partial(_cascade_mask, depth=50, deform_stages=_C3_C5),
    "cascade_mask_rcnn_r101_fpn": partial(_cascade_mask, depth=101),
    "cascade_mask_rcnn_r101_fpn_dconv_c3-c5": partial(_cascade_mask, depth=101, deform_stages=_C3_C5),
    "cascade_mask_rcnn_x101_32x4d_fpn": partial(_cascade_mask, depth=101, groups=32, base_width=4),
    "cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5": partial(
        _cascade_mask, depth=101, groups=32, base_width=4, deform_stages=_C3_C5
    ),
    # The networks of the original MXNet code, number for number
    "rfcn_r101": rfcn,
    "rfcn_r101_dcn": partial(rfcn, deform_layers=3, deform_pool=True),
    "rcnn_r101": original_faster_rcnn,
    "rcnn_r101_dcn": partial(original_faster_rcnn, deform_layers=3, deform_pool=True),
    "fpn_r101": original_fpn,
    "fpn_r101_dcn": partial(original_fpn, deform_layers=("c3.3", "c4.22", "c5"), deform_pool=True),
    "deeplab_r101": deeplab,
    "deeplab_r101_dcn": partial(deeplab, deform_layers=3),
    # The same on a smaller backbone (ours)
    "deeplab_r18": partial(deeplab, depth=18),
    "deeplab_r18_dcn": partial(deeplab, depth=18, deform_layers=2),
    "deeplab_r50": partial(deeplab, depth=50),
    "deeplab_r50_dcn": partial(deeplab, depth=50, deform_layers=3),
    # DeepLabv3 at stride 16
    "deeplabv3_r18": partial(deeplabv3, depth=18),
    "deeplabv3_r50": partial(deeplabv3, depth=50),
    "deeplabv3_r50_dconv_c3-c5": partial(deeplabv3, depth=50, deform_stages=_C3_C5),
    "deeplabv3_r50_mdconv_c3-c5": partial(deeplabv3, depth=50, deform_stages=_C3_C5, modulated=True),
    "deeplabv3_r50_dconv_head": partial(deeplabv3, depth=50, deform_head=True),
    "deeplabv3_r101": partial(deeplabv3, depth=101),
    "deeplabv3_r101_dconv_c3-c5": partial(deeplabv3, depth=101, deform_stages=_C3_C5),
    "deeplabv3_r101_dconv_head": partial(deeplabv3, depth=101, deform_head=True),
    "deeplabv3_x101_32x4d": partial(deeplabv3, depth=101, groups=32, base_width=4),
    # The paper's class-aware proposal network, which has no public code
    "rpn_r101": class_aware_rpn,
    "rpn_r101_dcn": partial(class_aware_rpn, deform_layers=3),
}
