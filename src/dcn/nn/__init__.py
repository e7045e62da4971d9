"""Modules with parameters."""

from __future__ import annotations

from dcn.nn.convert import deformify, offset_parameters, undeformify
from dcn.nn.dcnv3 import DCNv3
from dcn.nn.dcnv4 import DCNv4
from dcn.nn.deform_conv import DeformConv1d, DeformConv2d, DeformConv3d, rename_old_keys
from dcn.nn.deform_conv_transpose import DeformConvTranspose1d, DeformConvTranspose2d, DeformConvTranspose3d
from dcn.nn.deform_depthwise import DeformDepthwiseConv2d
from dcn.nn.deform_roi_pool import DeformPSRoIPool, DeformRoIPool, ModulatedDeformRoIPool
from dcn.nn.folding import fold_batch_norm
from dcn.nn.ms_deform_attn import MultiScaleDeformableAttention
from dcn.nn.norm import FrozenBatchNorm2d
from dcn.nn.offset_health import OffsetHealth, OffsetMonitor
from dcn.nn.roi_offset_health import RoIOffsetHealth, RoIOffsetMonitor

__all__ = [
    "DCNv3",
    "DCNv4",
    "DeformConv1d",
    "DeformConv2d",
    "DeformConv3d",
    "DeformConvTranspose1d",
    "DeformConvTranspose2d",
    "DeformConvTranspose3d",
    "DeformDepthwiseConv2d",
    "DeformPSRoIPool",
    "DeformRoIPool",
    "FrozenBatchNorm2d",
    "ModulatedDeformRoIPool",
    "MultiScaleDeformableAttention",
    "OffsetHealth",
    "OffsetMonitor",
    "RoIOffsetHealth",
    "RoIOffsetMonitor",
    "deformify",
    "fold_batch_norm",
    "offset_parameters",
    "rename_old_keys",
    "undeformify",
]
