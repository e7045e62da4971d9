"""Published accuracy of the networks, as printed by their authors: a literal table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One figure.

    Attributes:
        figure: in percent, as printed.
        data: what it was measured on.
        source: who published it.
    """

    figure: str
    data: str
    source: str


def _later(figure: str, folder: str = "dcn") -> Published:
    return Published(figure, "COCO val2017, 1x schedule", f"mmdetection, configs/{folder}")


_V1 = "README of the original MXNet code"

PUBLISHED: dict[str, Published] = {
    "faster_rcnn_r50_fpn_dconv_c3-c5": _later("box AP 41.3"),
    "faster_rcnn_r50_fpn_mdconv_c3-c5": _later("box AP 41.4", "dcnv2"),
    "faster_rcnn_r50_fpn_mdconv_c3-c5_group4": _later("box AP 41.5", "dcnv2"),
    "faster_rcnn_r50_fpn_dpool": _later("box AP 38.9"),
    "faster_rcnn_r50_fpn_mdpool": _later("box AP 38.7", "dcnv2"),
    "faster_rcnn_r101_fpn_dconv_c3-c5": _later("box AP 42.7"),
    "faster_rcnn_x101_32x4d_fpn_dconv_c3-c5": _later("box AP 44.5"),
    "mask_rcnn_r50_fpn_dconv_c3-c5": _later("box AP 41.8, mask AP 37.4"),
    "mask_rcnn_r50_fpn_mdconv_c3-c5": _later("box AP 41.5, mask AP 37.1", "dcnv2"),
    "mask_rcnn_r50_fpn_fp16_dconv_c3-c5": _later("box AP 41.9, mask AP 37.5"),
    "mask_rcnn_r50_fpn_fp16_mdconv_c3-c5": _later("box AP 42.0, mask AP 37.6", "dcnv2"),
    "mask_rcnn_r101_fpn_dconv_c3-c5": _later("box AP 43.5, mask AP 38.9"),
    "cascade_rcnn_r50_fpn_dconv_c3-c5": _later("box AP 43.8"),
    "cascade_rcnn_r101_fpn_dconv_c3-c5": _later("box AP 45.0"),
    "cascade_mask_rcnn_r50_fpn_dconv_c3-c5": _later("box AP 44.4, mask AP 38.6"),
    "cascade_mask_rcnn_r101_fpn_dconv_c3-c5": _later("box AP 45.8, mask AP 39.7"),
    "cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5": _later("box AP 47.3, mask AP 41.1"),
    "rfcn_r101": Published("AP 32.1", "COCO test-dev", _V1),
    "rfcn_r101_dcn": Published("AP 35.7", "COCO test-dev", _V1),
    "rcnn_r101": Published("AP 30.3", "COCO test-dev", _V1),
    "rcnn_r101_dcn": Published("AP 35.0", "COCO test-dev", _V1),
    "fpn_r101": Published("AP 37.8", "COCO minival", _V1),
    "fpn_r101_dcn": Published("AP 41.2", "COCO minival", _V1),
    "deeplab_r101": Published("mIoU 70.3", "Cityscapes val", _V1),
    "deeplab_r101_dcn": Published("mIoU 75.2", "Cityscapes val", _V1),
    "rpn_r101": Published("mAP@0.5 68.0", "VOC 2007 test", "the paper (ICCV 2017)"),
    "rpn_r101_dcn": Published("mAP@0.5 74.5", "VOC 2007 test", "the paper (ICCV 2017)"),
}
"""By name of the model; networks without an entry have no published figure, or it is not known here."""
