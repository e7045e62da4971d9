"""Record detectron2's detections: ``python tests/models/checkpoints/record_detectron2.py``, where it is installed.

The tests compare with the file it writes, so that they need no detectron2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.models.checkpoints.detectron2_weights import made_image, made_weights

FILE = Path(__file__).parents[2] / "golden" / "foreign" / "detectron2.json"
SIZE = (90, 130)
RGB_STD = {"PIXEL_MEAN": [123.675, 116.28, 103.53], "PIXEL_STD": [58.395, 57.12, 57.375]}
CASES: dict[str, dict[str, Any]] = {
    "mask_rcnn_modulated": {"modulated": True, "first_scale": 1 / 58},
    "cascade_mask_rcnn": {"cascade": True, "first_scale": 1 / 58},
    "faster_rcnn_torchvision": {"masks": False, "torchvision": True, "first_scale": 1.0},
    "faster_rcnn_groups": {"masks": False, "groups": 2, "first_scale": 1.0},
}


def _config(case: dict[str, Any]) -> Any:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE, model.MASK_ON = "cpu", case.get("masks", True)
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    levels = ["res2", "res3", "res4", "res5"]
    model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = levels
    model.RESNETS.STEM_OUT_CHANNELS, model.RESNETS.RES2_OUT_CHANNELS, model.RESNETS.WIDTH_PER_GROUP = 4, 16, 4
    model.FPN.OUT_CHANNELS = model.ROI_BOX_HEAD.FC_DIM = model.ROI_MASK_HEAD.CONV_DIM = 8
    model.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    model.RPN.PRE_NMS_TOPK_TEST = 1000
    model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    model.ROI_HEADS.NUM_CLASSES = 3
    model.ROI_HEADS.NAME = "CascadeROIHeads" if case.get("cascade") else "StandardROIHeads"
    model.ROI_BOX_HEAD.NAME, model.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 2
    model.ROI_BOX_HEAD.POOLER_RESOLUTION, model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = 7, case.get("cascade", False)
    model.ROI_MASK_HEAD.NAME, model.ROI_MASK_HEAD.NUM_CONV = "MaskRCNNConvUpsampleHead", 4
    if case.get("modulated"):
        model.RESNETS.DEFORM_ON_PER_STAGE, model.RESNETS.DEFORM_MODULATED = [False, True, True, True], True
    if case.get("groups"):
        model.RESNETS.NUM_GROUPS, model.RESNETS.STRIDE_IN_1X1 = case["groups"], False
        model.PIXEL_STD = [57.375, 57.12, 58.395]
    if case.get("torchvision"):
        model.RESNETS.STRIDE_IN_1X1, cfg.INPUT.FORMAT = False, "RGB"
        model.PIXEL_MEAN, model.PIXEL_STD = RGB_STD["PIXEL_MEAN"], RGB_STD["PIXEL_STD"]
    return cfg


def _record(case: dict[str, Any]) -> dict[str, Any]:
    from detectron2.modeling import build_model

    cfg = _config(case)
    model = build_model(cfg).eval()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items() if not name.startswith("pixel_")}
    shapes = {name: shape for name, shape in shapes.items() if "cell_anchors" not in name}
    values = made_weights(shapes, case["first_scale"])
    model.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()}, strict=False)
    image = torch.from_numpy(made_image(*SIZE))
    given = image if cfg.INPUT.FORMAT == "RGB" else image.flip(0)
    with torch.no_grad():
        found = model([{"image": given, "height": SIZE[0], "width": SIZE[1]}])[0]["instances"]
    recorded = {
        "shapes": shapes,
        "boxes": [[round(value, 3) for value in box] for box in found.pred_boxes.tensor.tolist()],
        "scores": [round(value, 6) for value in found.scores.tolist()],
        "labels": found.pred_classes.tolist(),
    }
    if found.has("pred_masks"):
        recorded["areas"] = found.pred_masks.flatten(1).sum(1).tolist()
    return recorded


def _caffe2_names() -> list[list[str]]:
    """Names of the ImageNet ResNet-50 of Caffe2 and what detectron2 makes of them."""
    from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names

    norm = ("bn_s", "bn_b")
    names = ["conv1_w", "conv1_b", *(f"res_conv1_{part}" for part in norm), "fc1000_w", "fc1000_b"]
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for block in range(blocks):
            branches = ["branch2a", "branch2b", "branch2c", *(["branch1"] if block == 0 else [])]
            names += [f"res{stage}_{block}_{branch}_{part}" for branch in branches for part in ("w", *norm)]
    return [list(pair) for pair in zip(names, convert_basic_c2_names(names), strict=True)]


def main() -> None:
    """Write the file."""
    content: dict[str, Any] = {name: _record(case) for name, case in CASES.items()}
    content["caffe2_names"] = _caffe2_names()
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    FILE.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
