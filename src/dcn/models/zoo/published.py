"""Published accuracy of the models, as printed by their authors: a literal table.

The rows of the two code bases were compared with their pages. Those of the paper's tables 1, 3 and 5 were compared,
number by number, with a transcription that others made of the paper, and partly with a second one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    Attributes:
        metrics: in percent, as printed.
        data: the data that they were measured on.
        source: who published it, and where.
        recipe: the shipped recipe that stands for the row.
    """

    metrics: str
    data: str
    source: str
    recipe: str

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics in percent by the names that `dcn eval` gives them: ``AP50``, ``AP70``; ``AP``, ``mask/AP``."""
        numbers = [float(text) for text in re.findall(r"\d+\.\d", self.metrics.partition(" at ")[0])]
        names = {"mAP": ["AP50", "AP70"], "mIoU": ["mIoU"]}.get(self.metrics.split()[0], ["AP", "mask/AP"])
        return dict(zip(names[: len(numbers)], numbers, strict=True))


def _mmdet(name: str, metrics: str, folder: str = "dcn") -> tuple[Published, ...]:
    return (Published(metrics, "COCO val2017, 1x schedule", f"mmdetection, configs/{folder}", f"{name}_1x"),)


_README = "README of the original MXNet code"
_PAPER = "the paper (ICCV 2017), "
_TABLE1, _TABLE3, _TABLE5 = f"{_PAPER}table 1", f"{_PAPER}table 3", f"{_PAPER}table 5"
_TABLES_1_3 = f"{_PAPER}tables 1 and 3"


def _voc(recipe: str, at_50: float, at_70: float, source: str) -> Published:
    return Published(f"mAP {at_50} / {at_70} at IoU 0.5 / 0.7", "VOC 2007 test", source, recipe)


def _dev(recipe: str, ap: float, source: str, how: str = "") -> Published:
    return Published(f"AP {ap}{how}", "COCO test-dev", source, recipe)


def _minival(recipe: str, ap: float, how: str = "") -> Published:
    return Published(f"AP {ap}{how}", "COCO minival", _README, recipe)


def _maps(suffix: str, voc: float, cityscapes: float, source: str) -> tuple[Published, Published]:
    return (
        Published(f"mIoU {cityscapes}", "Cityscapes val", source, f"cityscapes_deeplab{suffix}"),
        Published(f"mIoU {voc}", "VOC 2012 val", source, f"voc12_deeplab{suffix}"),
    )


_SCALES = " (multi-scale)"
_SOFT = " (multi-scale, soft-NMS)"
_VOTING = " (multi-scale, box average)"
_ALIGNED = "rfcn_aligned_inception_resnet"
_ALIGNED_RCNN = "rcnn_aligned_inception_resnet"

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "faster_rcnn_r50_fpn_dconv_c3-c5": _mmdet("faster_rcnn_r50_fpn_dconv_c3-c5", "box AP 41.3"),
    "faster_rcnn_r50_fpn_mdconv_c3-c5": _mmdet("faster_rcnn_r50_fpn_mdconv_c3-c5", "box AP 41.4", "dcnv2"),
    "faster_rcnn_r50_fpn_mdconv_c3-c5_group4": _mmdet(
        "faster_rcnn_r50_fpn_mdconv_c3-c5_group4", "box AP 41.5", "dcnv2"
    ),
    "faster_rcnn_r50_fpn_dpool": _mmdet("faster_rcnn_r50_fpn_dpool", "box AP 38.9"),
    "faster_rcnn_r50_fpn_mdpool": _mmdet("faster_rcnn_r50_fpn_mdpool", "box AP 38.7", "dcnv2"),
    "faster_rcnn_r101_fpn_dconv_c3-c5": _mmdet("faster_rcnn_r101_fpn_dconv_c3-c5", "box AP 42.7"),
    "faster_rcnn_x101_32x4d_fpn_dconv_c3-c5": _mmdet("faster_rcnn_x101_32x4d_fpn_dconv_c3-c5", "box AP 44.5"),
    "mask_rcnn_r50_fpn_dconv_c3-c5": _mmdet("mask_rcnn_r50_fpn_dconv_c3-c5", "box AP 41.8, mask AP 37.4"),
    "mask_rcnn_r50_fpn_mdconv_c3-c5": _mmdet("mask_rcnn_r50_fpn_mdconv_c3-c5", "box AP 41.5, mask AP 37.1", "dcnv2"),
    "mask_rcnn_r50_fpn_fp16_dconv_c3-c5": _mmdet("mask_rcnn_r50_fpn_fp16_dconv_c3-c5", "box AP 41.9, mask AP 37.5"),
    "mask_rcnn_r50_fpn_fp16_mdconv_c3-c5": _mmdet(
        "mask_rcnn_r50_fpn_fp16_mdconv_c3-c5", "box AP 42.0, mask AP 37.6", "dcnv2"
    ),
    "mask_rcnn_r101_fpn_dconv_c3-c5": _mmdet("mask_rcnn_r101_fpn_dconv_c3-c5", "box AP 43.5, mask AP 38.9"),
    "cascade_rcnn_r50_fpn_dconv_c3-c5": _mmdet("cascade_rcnn_r50_fpn_dconv_c3-c5", "box AP 43.8"),
    "cascade_rcnn_r101_fpn_dconv_c3-c5": _mmdet("cascade_rcnn_r101_fpn_dconv_c3-c5", "box AP 45.0"),
    "cascade_mask_rcnn_r50_fpn_dconv_c3-c5": _mmdet(
        "cascade_mask_rcnn_r50_fpn_dconv_c3-c5", "box AP 44.4, mask AP 38.6"
    ),
    "cascade_mask_rcnn_r101_fpn_dconv_c3-c5": _mmdet(
        "cascade_mask_rcnn_r101_fpn_dconv_c3-c5", "box AP 45.8, mask AP 39.7"
    ),
    "cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5": _mmdet(
        "cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5", "box AP 47.3, mask AP 41.1"
    ),
    "rfcn_r101": (
        _dev("rfcn_r101_coco", 32.1, _README),
        _voc("rfcn_r101_voc", 79.6, 63.1, _README),
        _dev("rfcn_r101_coco", 30.8, _TABLE5),
        _voc("rfcn_r101_voc", 80.0, 61.8, _TABLES_1_3),
    ),
    "rfcn_r101_dcn": (
        _dev("rfcn_r101_dcn_coco", 35.7, _README),
        _voc("rfcn_r101_dcn_voc", 82.3, 67.8, _README),
        _dev("rfcn_r101_dcn_coco", 34.5, _TABLE5),
        _voc("rfcn_r101_dcn_voc", 82.6, 68.5, _TABLE3),
    ),
    "rcnn_r101": (
        _dev("rcnn_r101_coco", 30.3, _README),
        _dev("rcnn_r101_coco", 29.4, _TABLE5),
        _voc("rcnn_r101_voc", 78.1, 62.1, _TABLES_1_3),
    ),
    "rcnn_r101_dcn": (
        _dev("rcnn_r101_dcn_coco", 35.0, _README),
        _dev("rcnn_r101_dcn_coco", 33.1, _TABLE5),
        _voc("rcnn_r101_dcn_voc", 79.3, 66.9, _TABLE3),
    ),
    "fpn_r101": (_minival("fpn_r101_coco", 37.8), _minival("fpn_r101_coco_multiscale", 40.9, _SOFT)),
    "fpn_r101_dcn": (_minival("fpn_r101_dcn_coco", 41.2), _minival("fpn_r101_dcn_coco_multiscale", 44.4, _SOFT)),
    "deeplab_r101": (*_maps("", 70.7, 70.3, _README), *_maps("", 69.7, 70.4, _TABLES_1_3)),
    "deeplab_r101_dcn": (
        *_maps("_dcn", 75.9, 75.2, _README),
        *_maps("_dcn", 75.2, 75.2, _TABLE1),
        *_maps("_dcn", 75.3, 75.2, _TABLE3),
    ),
    "rpn_r101": (
        _dev("rpn_r101_coco", 23.2, _TABLE5),
        _voc("rpn_r101_voc", 68.0, 44.9, _TABLES_1_3),
    ),
    "rpn_r101_dcn": (
        _dev("rpn_r101_dcn_coco", 25.8, _TABLE5),
        _voc("rpn_r101_dcn_voc", 74.5, 57.2, _TABLES_1_3),
    ),
    "rfcn_r101_dconv1": (_voc("rfcn_r101_dconv1_voc", 80.6, 63.0, _TABLE1),),
    "rfcn_r101_dconv2": (_voc("rfcn_r101_dconv2_voc", 81.0, 63.8, _TABLE1),),
    "rfcn_r101_dconv3": (_voc("rfcn_r101_dconv3_voc", 81.4, 64.7, _TABLES_1_3),),
    "rfcn_r101_dconv6": (_voc("rfcn_r101_dconv6_voc", 81.5, 65.4, _TABLE1),),
    "rcnn_r101_dconv1": (_voc("rcnn_r101_dconv1_voc", 78.6, 63.8, _TABLE1),),
    "rcnn_r101_dconv2": (_voc("rcnn_r101_dconv2_voc", 78.5, 63.3, _TABLE1),),
    "rcnn_r101_dconv3": (_voc("rcnn_r101_dconv3_voc", 78.6, 63.3, _TABLES_1_3),),
    "rcnn_r101_dconv6": (_voc("rcnn_r101_dconv6_voc", 78.7, 64.0, _TABLE1),),
    "rpn_r101_dconv1": (_voc("rpn_r101_dconv1_voc", 73.5, 54.4, _TABLE1),),
    "rpn_r101_dconv2": (_voc("rpn_r101_dconv2_voc", 74.3, 56.3, _TABLE1),),
    "rpn_r101_dconv6": (_voc("rpn_r101_dconv6_voc", 74.6, 57.7, _TABLE1),),
    "deeplab_r101_dconv1": _maps("_dconv1", 73.9, 73.5, _TABLE1),
    "deeplab_r101_dconv2": _maps("_dconv2", 74.8, 74.4, _TABLE1),
    "deeplab_r101_dconv6": _maps("_dconv6", 74.8, 75.1, _TABLE1),
    "rfcn_r101_atrous4": (_voc("rfcn_r101_atrous4_voc", 80.5, 63.0, _TABLE3),),
    "rfcn_r101_atrous6": (_voc("rfcn_r101_atrous6_voc", 80.2, 63.5, _TABLE3),),
    "rfcn_r101_atrous8": (_voc("rfcn_r101_atrous8_voc", 80.3, 63.2, _TABLE3),),
    "rfcn_r101_dpool": (_voc("rfcn_r101_dpool_voc", 81.2, 65.0, _TABLE3),),
    "rcnn_r101_atrous4": (_voc("rcnn_r101_atrous4_voc", 78.6, 63.1, _TABLE3),),
    "rcnn_r101_atrous6": (_voc("rcnn_r101_atrous6_voc", 78.5, 62.3, _TABLE3),),
    "rcnn_r101_atrous8": (_voc("rcnn_r101_atrous8_voc", 77.8, 61.8, _TABLE3),),
    "rcnn_r101_dpool": (_voc("rcnn_r101_dpool_voc", 78.3, 66.6, _TABLE3),),
    "rpn_r101_atrous4": (_voc("rpn_r101_atrous4_voc", 72.8, 53.1, _TABLE3),),
    "rpn_r101_atrous6": (_voc("rpn_r101_atrous6_voc", 73.6, 55.2, _TABLE3),),
    "rpn_r101_atrous8": (_voc("rpn_r101_atrous8_voc", 73.2, 55.1, _TABLE3),),
    "deeplab_r101_atrous4": _maps("_atrous4", 73.1, 71.9, _TABLE3),
    "deeplab_r101_atrous6": _maps("_atrous6", 73.6, 72.7, _TABLE3),
    "deeplab_r101_atrous8": _maps("_atrous8", 73.2, 72.4, _TABLE3),
    "rfcn_aligned_inception_resnet": (
        _dev(f"{_ALIGNED}_coco", 32.9, _TABLE5),
        _dev(f"{_ALIGNED}_coco_multiscale", 34.5, _TABLE5, _SCALES),
        _dev(f"{_ALIGNED}_coco_multiscale_voting", 35.5, _TABLE5, _VOTING),
    ),
    "rfcn_aligned_inception_resnet_dcn": (
        _dev(f"{_ALIGNED}_dcn_coco", 36.1, _TABLE5),
        _dev(f"{_ALIGNED}_dcn_coco_multiscale", 37.1, _TABLE5, _SCALES),
        _dev(f"{_ALIGNED}_dcn_coco_multiscale_voting", 37.5, _TABLE5, _VOTING),
    ),
    "rcnn_aligned_inception_resnet": (_dev(f"{_ALIGNED_RCNN}_coco", 30.8, _TABLE5),),
    "rcnn_aligned_inception_resnet_dcn": (_dev(f"{_ALIGNED_RCNN}_dcn_coco", 34.1, _TABLE5),),
}
"""By name of the model; models without an entry have no published metrics, or it is not known here."""
