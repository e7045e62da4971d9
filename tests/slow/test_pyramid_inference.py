"""Files of mmdetection, loaded and used as a user does, against inference written a second time: 10 to 60 s each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import dcn
from dcn.models import build
from tests.models.detection.pyramid.mmdetection_oracle import predicted

CLASSES = tuple(f"thing {index}" for index in range(80))

NETWORKS = (
    "mask_rcnn_r50_fpn_mdconv_c3-c5",
    "mask_rcnn_r50_fpn_fp16_dconv_c3-c5",
    "cascade_mask_rcnn_r50_fpn_dconv_c3-c5",
    "faster_rcnn_r50_fpn_mdconv_c3-c5_group4",
    "faster_rcnn_r50_fpn_dpool",
    "faster_rcnn_r50_fpn_mdpool",
    "faster_rcnn_x101_32x4d_fpn_dconv_c3-c5",
)


def _lively(name: str) -> dict[str, Tensor]:
    """A state dict whose model finds things: signals keep their size, offsets are pixels, classes are certain."""
    torch.manual_seed(0)
    state = build(name, CLASSES).state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif ".bn3.weight" in key:
            value.uniform_(0.1, 0.4)
        elif "running_mean" in key or (".bn" in key and key.endswith("bias")):
            value.uniform_(-0.2, 0.2)
        elif "conv_offset" in key or "offset_fc.4" in key:
            value.normal_(std=1.0 if key.endswith("bias") else 0.02)
        elif "mask_fc.2" in key or "fc_reg" in key or "rpn_reg" in key:
            value.normal_(std=0.02)
        elif "rpn_cls" in key or "fc_cls" in key or "conv_logits" in key:
            value.normal_(std=0.1)
    return state


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_the_later_zoo_predicts_what_its_own_code_predicts(name: str, tmp_path: Path) -> None:
    state = _lively(name)
    path = tmp_path / "checkpoint.pth"
    torch.save({"meta": {"CLASSES": CLASSES, "epoch": 12}, "state_dict": state}, path)
    image = torch.randint(0, 256, (3, 24, 31), generator=torch.Generator().manual_seed(1)).float()[None]
    image = torch.nn.functional.interpolate(image, (150, 197), mode="bicubic").clamp(0, 255)[0].to(torch.uint8)
    model = dcn.load(name, weights=path, device="cpu")
    detections = model.predict(image, resize=None, min_score=0.05)
    assert not isinstance(detections, list)
    with torch.no_grad():
        boxes, scores, labels, masks = predicted(state, image, 101 if "x101" in name else 50, 0.05)
    assert model.classes == CLASSES
    assert len(boxes) > 5
    # Two scores that differ in the last digit may swap: each detection looks for its own.
    ours = torch.cat((detections.boxes, 100 * detections.scores[:, None], 1000 * detections.labels[:, None]), 1)
    theirs = torch.cat((boxes, 100 * scores[:, None], 1000 * labels[:, None]), 1)
    assert len(ours) == len(theirs)
    distance, position = torch.cdist(theirs, ours, p=torch.inf).min(1)
    assert distance.max() < 0.05
    assert len(set(position.tolist())) == len(position)
    assert (detections.masks is None) == (masks is None)
    if detections.masks is not None and masks is not None:
        decided = (masks - 0.5).abs() > 1e-3
        assert torch.equal(detections.masks[position] & decided, (masks > 0.5) & decided)
