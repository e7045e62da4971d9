"""mmdetection on mmcv-lite, whose compiled extension `dcn.compat.mmcv` stands in for: a step of training, and results.

Needs mmdet 3.3.0, mmcv-lite 2.1.0 and mmengine, which no extra of this package brings.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mmdet", "mmcv", "mmengine")),
    reason="needs pip install mmdet==3.3.0 mmcv-lite==2.1.0 mmengine",
)
CONFIGS = (
    "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
    "dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py",
    "dcn/mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
    "dcn/cascade-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
    "dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py",
    "centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py",
    "detectors/cascade-rcnn_r50-sac_1x_coco.py",
    "dyhead/atss_r50-caffe_fpn_dyhead_1x_coco.py",
    "fcos/fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "dino/dino-4scale_r50_8xb2-12e_coco.py",
    "guided_anchoring/ga-faster-rcnn_r50-caffe_fpn_1x_coco.py",
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
    "reppoints/reppoints-moment_r101-dconv-c3-c5_fpn-gn_head-gn_2x_coco.py",
    "retinanet/retinanet_r50_fpn_1x_coco.py",
    "vfnet/vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco.py",
)
PROGRAM = """
import sys
from pathlib import Path

import dcn.compat.mmcv
dcn.compat.mmcv.install()

import mmdet
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

init_default_scope("mmdet")
settings = Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / sys.argv[1]).model
settings.backbone.init_cfg = None  # random weights: nothing is downloaded
torch.manual_seed(0)
model = MODELS.build(settings)
size = (320, 384)
about = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
sample = DetDataSample(metainfo=dict(about, scale_factor=(1.0, 1.0), border=[0, 320, 0, 384], flip=False, img_id=0))
sample.gt_instances = InstanceData(
    bboxes=torch.tensor([[10.0, 10, 90, 80], [50, 40, 150, 150]]),
    labels=torch.tensor([1, 2]),
    masks=BitmapMasks(np.ones((2, *size), np.uint8), *size),
)
images = torch.randn(1, 3, *size)
losses = model(images, [sample], mode="loss")
values = [v for name, loss in losses.items() if "loss" in name for v in (loss if isinstance(loss, list) else [loss])]
sum(value.sum() for value in values).backward()
offsets = [p.grad for name, p in model.named_parameters() if "conv_offset.weight" in name]
assert all(g is not None and g.isfinite().all() for g in offsets)
with torch.no_grad():
    (result,) = model.eval()(images, [sample], mode="predict")
assert result.pred_instances.bboxes.isfinite().all()
print("done", len(offsets))
"""


@pytest.mark.parametrize("config", CONFIGS)
def test_a_model_of_mmdetection_trains_and_predicts(config: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, config],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("done")
