"""Published weights: the addresses and checksums of files that others trained, a literal table.

The detectors are those of mmdetection 2.x (configs/dcn, COCO train2017, 1x schedule); a file's name ends in the first
eight digits of its SHA-256 checksum. The backbones were trained on ImageNet. The files of the original MXNet code
(``rfcn_dcn_coco-0000.params`` ...) have no public address any more; `dcn import` reads them where you have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dcn.plugins import Table

_MMDETECTION = "https://download.openmmlab.com/mmdetection/v2.0/dcn"


@dataclass(frozen=True)
class PublishedWeights:
    """One file.

    Attributes:
        kind: ``detector`` (a whole model of that name) or ``backbone`` (for ``model.backbone_weights``).
        url: its address.
        sha256: the first digits of its checksum.
        source: who published it, and what it was trained on.
    """

    kind: Literal["detector", "backbone"]
    url: str
    sha256: str
    source: str

    @property
    def file_name(self) -> str:
        """The published name of the file."""
        return self.url.rpartition("/")[2]


def _detector(name: str, ending: str) -> PublishedWeights:
    folder = f"{name}_1x_coco"
    checksum = ending.rpartition("-")[2]
    url = f"{_MMDETECTION}/{folder}/{folder}{ending}.pth"
    return PublishedWeights("detector", url, checksum, "mmdetection 2.x, COCO train2017")


def _backbone(url: str, source: str) -> PublishedWeights:
    return PublishedWeights("backbone", url, url.removesuffix(".pth").rpartition("-")[2], f"{source}, ImageNet")


_OWN: dict[str, PublishedWeights] = {
    "cascade_mask_rcnn_r101_fpn_dconv_c3-c5": _detector("cascade_mask_rcnn_r101_fpn_dconv_c3-c5", "_20200204-df0c5f10"),
    "cascade_mask_rcnn_r50_fpn_dconv_c3-c5": _detector("cascade_mask_rcnn_r50_fpn_dconv_c3-c5", "_20200202-42e767a2"),
    "cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5": _detector(
        "cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5", "-e75f90c8"
    ),
    "cascade_rcnn_r101_fpn_dconv_c3-c5": _detector("cascade_rcnn_r101_fpn_dconv_c3-c5", "_20200203-3b2f0594"),
    "cascade_rcnn_r50_fpn_dconv_c3-c5": _detector("cascade_rcnn_r50_fpn_dconv_c3-c5", "_20200130-2f1fca44"),
    "faster_rcnn_r101_fpn_dconv_c3-c5": _detector("faster_rcnn_r101_fpn_dconv_c3-c5", "_20200203-1377f13d"),
    "faster_rcnn_r50_fpn_dconv_c3-c5": _detector("faster_rcnn_r50_fpn_dconv_c3-c5", "_20200130-d68aed1e"),
    "faster_rcnn_r50_fpn_dpool": _detector("faster_rcnn_r50_fpn_dpool", "_20200307-90d3c01d"),
    "faster_rcnn_r50_fpn_mdconv_c3-c5": _detector("faster_rcnn_r50_fpn_mdconv_c3-c5", "_20200130-d099253b"),
    "faster_rcnn_r50_fpn_mdconv_c3-c5_group4": _detector(
        "faster_rcnn_r50_fpn_mdconv_c3-c5_group4", "_20200130-01262257"
    ),
    "faster_rcnn_r50_fpn_mdpool": _detector("faster_rcnn_r50_fpn_mdpool", "_20200307-c0df27ff"),
    "faster_rcnn_x101_32x4d_fpn_dconv_c3-c5": _detector("faster_rcnn_x101_32x4d_fpn_dconv_c3-c5", "_20200203-4f85c69c"),
    "mask_rcnn_r101_fpn_dconv_c3-c5": _detector("mask_rcnn_r101_fpn_dconv_c3-c5", "_20200216-a71f5bce"),
    "mask_rcnn_r50_fpn_dconv_c3-c5": _detector("mask_rcnn_r50_fpn_dconv_c3-c5", "_20200203-4d9ad43b"),
    "mask_rcnn_r50_fpn_mdconv_c3-c5": _detector("mask_rcnn_r50_fpn_mdconv_c3-c5", "_20200203-ad97591f"),
    "resnet18": _backbone("https://download.pytorch.org/models/resnet18-f37072fd.pth", "torchvision"),
    "resnet34": _backbone("https://download.pytorch.org/models/resnet34-b627a593.pth", "torchvision"),
    "resnet50": _backbone("https://download.pytorch.org/models/resnet50-0676ba61.pth", "torchvision"),
    "resnet101": _backbone("https://download.pytorch.org/models/resnet101-63fe2227.pth", "torchvision"),
    "resnext101_32x4d": _backbone(
        "https://download.openmmlab.com/pretrain/third_party/resnext101_32x4d-a5af3160.pth", "mmdetection"
    ),
}

PUBLISHED_WEIGHTS = Table("dcn.weights", _OWN, "PublishedWeights", lambda row: isinstance(row, PublishedWeights))
"""Files by name; those of plug-ins among them."""
