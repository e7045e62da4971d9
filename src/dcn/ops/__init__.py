"""The operators: functions of tensors with exact contracts, gradients and a choice of backends."""

from __future__ import annotations

from dcn.ops import _flops
from dcn.ops.box_voting import box_voting
from dcn.ops.dcnv3 import dcnv3
from dcn.ops.dcnv4 import dcnv4
from dcn.ops.deform_conv import deform_conv1d, deform_conv2d, deform_conv3d
from dcn.ops.deform_conv_transpose import deform_conv_transpose1d, deform_conv_transpose2d, deform_conv_transpose3d
from dcn.ops.deform_roi_pool import deform_ps_roi_pool, deform_roi_pool
from dcn.ops.ms_deform_attn import ms_deform_attn
from dcn.ops.nms import nms, nms_keep, soft_nms
from dcn.ops.roi_pool import ps_roi_align, ps_roi_pool, roi_align, roi_pool

__all__ = [
    "box_voting",
    "dcnv3",
    "dcnv4",
    "deform_conv1d",
    "deform_conv2d",
    "deform_conv3d",
    "deform_conv_transpose1d",
    "deform_conv_transpose2d",
    "deform_conv_transpose3d",
    "deform_ps_roi_pool",
    "deform_roi_pool",
    "ms_deform_attn",
    "nms",
    "nms_keep",
    "ps_roi_align",
    "ps_roi_pool",
    "roi_align",
    "roi_pool",
    "soft_nms",
]

_flops.watch()
