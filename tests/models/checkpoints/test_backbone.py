from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from dcn.models import build
from dcn.models.checkpoints import (
    BackboneFacts,
    export_backbone,
    export_mxnet,
    load_backbone,
    read_backbone,
    write_params,
)
from dcn.models.detection.original.region_classifier import deform_psroi_demo
from dcn.models.preprocess import Preprocess

OPTIONS: dict[str, Any] = {"width": 1 / 16, "stem_channels": 4, "fpn_channels": 8, "fc_channels": 8}


def _detector(name: str = "faster_rcnn_r50_fpn", **options: Any) -> Any:
    return build(name, ["a"], **OPTIONS, **options)


def _same_backbone(first: Any, second: Any) -> bool:
    other = second.backbone.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.backbone.state_dict().items())


def test_torchvision_file_into_a_deformable_detector(tmp_path: Path) -> None:
    source = _detector()
    torch.save({**source.backbone.state_dict(), "fc.weight": torch.zeros(3, 3)}, tmp_path / "x.pth")
    model = _detector("faster_rcnn_r50_fpn_dconv_c3-c5")
    missing = load_backbone(model, tmp_path / "x.pth")
    assert len(missing) == 2 * 13
    assert all(".conv2.conv_offset." in name for name in missing)
    assert _same_backbone(source, model)


def test_detector_file_of_mmdetection(tmp_path: Path) -> None:
    source, model = _detector("mask_rcnn_r50_fpn_dconv_c3-c5"), _detector("faster_rcnn_r50_fpn_dconv_c3-c5")
    torch.save({"meta": {}, "state_dict": source.state_dict()}, tmp_path / "x.pth")
    assert load_backbone(model, tmp_path / "x.pth") == []
    assert _same_backbone(source, model)


def test_own_file_states_its_facts(tmp_path: Path) -> None:
    facts = {"preprocess": "rgb_mean", "style": "caffe", "pool": "ceil"}
    source = _detector(**facts)
    save_file(source.state_dict(), tmp_path / "x.safetensors", {"model": "m", "options": json.dumps(facts)})
    assert read_backbone(tmp_path / "x.safetensors")[1] == BackboneFacts("rgb_mean", "caffe", "ceil")
    with pytest.raises(ValueError, match="expected a model built with preprocess='rgb_mean', style='caffe'"):
        load_backbone(_detector(), tmp_path / "x.safetensors")
    model = _detector(**facts)
    load_backbone(model, tmp_path / "x.safetensors")
    assert _same_backbone(source, model)


def test_wrong_width_is_listed(tmp_path: Path) -> None:
    torch.save(_detector().backbone.state_dict(), tmp_path / "x.pth")
    model = build("faster_rcnn_r50_fpn", ["a"], **OPTIONS | {"width": 1 / 8})
    with pytest.raises(ValueError, match=r"misshapen: layer1.0.conv1.weight: expected \[8, 4, 1, 1\], got \[4, 4, 1"):
        load_backbone(model, tmp_path / "x.pth")


def test_something_else(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"expected a ResNet .* got names such as features.0.weight"):
        read_backbone(tmp_path / "x.pth")


def test_exported_backbone(tmp_path: Path) -> None:
    facts = {"preprocess": "bgr_caffe", "style": "caffe", "pool": "ceil"}
    source = _detector("faster_rcnn_r50_fpn_dconv_c3-c5", **facts)
    save_file(source.state_dict(), tmp_path / "run.safetensors", {"model": "m", "options": json.dumps(facts)})
    path = export_backbone(tmp_path / "run.safetensors", tmp_path / "new" / "half.safetensors")
    model = _detector("faster_rcnn_r50_fpn_dconv_c3-c5", **facts)
    assert load_backbone(model, path) == []
    for name, value in source.backbone.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value.half().float(), model.backbone.state_dict()[name])
    # half of float32, and a header
    assert path.stat().st_size < 0.7 * sum(4 * p.numel() for p in source.backbone.parameters())


def test_diverged_backbone_is_not_exported(tmp_path: Path) -> None:
    state = _detector().backbone.state_dict()
    state["layer1.0.bn1.running_var"][0] = 1e6
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"expected numbers that fit into float16, got others in layer1\.0\.bn1\.running_var"
    ):
        export_backbone(tmp_path / "x.pth", tmp_path / "y.safetensors")


def test_half_width_caffe_network(shared: Path) -> None:
    """The whole file loads, and its classifier on our C5 gives a photo of coffee a low score for unsafe content."""
    path = shared / "weights" / "resnet50_1by2_open_nsfw.pth"
    caffe: dict[str, Any] = {"style": "caffe", "pool": "ceil", "preprocess": "bgr_caffe"}
    model: Any = build("faster_rcnn_r50_fpn", ["a"], width=0.5, fpn_channels=8, fc_channels=8, **caffe)
    assert load_backbone(model.eval(), path) == []
    raw = torch.load(path, weights_only=True)
    photo = next((shared / "data" / "photos").rglob("coffee*"))
    with Image.open(photo) as opened:
        pixels = opened.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR).tobytes()
    image = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1).contiguous()
    with torch.no_grad():
        c5 = model.backbone(model.preprocess([image]).pixels)[3]
        logits = raw["fc.weight"].float() @ c5.mean((2, 3))[0] + raw["fc.bias"].float()
    assert logits.softmax(0)[1] < 0.1


def test_what_a_file_holds_beside_its_backbone_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The original's deform_psroi_demo: its head belongs to no model of the table."""
    torch.manual_seed(0)
    arrays = export_mxnet(deform_psroi_demo(2, depth=50, width=1 / 16), test_copies=False)
    write_params(tmp_path / "demo.params", arrays)
    with caplog.at_level("INFO", "dcn"):
        state, facts = read_backbone(tmp_path / "demo.params")
    assert facts.style == "caffe"
    assert "conv1.weight" in state
    assert "left out: arg:conv_new_1_weight" in caplog.text
    assert "arg:rfcn_cls_offset_t_bias" in caplog.text


def test_a_backbone_of_ones_own_takes_its_own_state_dict(tmp_path: Path) -> None:
    model, source = nn.Module(), nn.Conv2d(3, 4, 1)
    model.backbone, model.preprocess = nn.Conv2d(3, 4, 1), Preprocess()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    assert load_backbone(model, tmp_path / "x.pth") == []
    torch.testing.assert_close(model.backbone.weight, source.weight, rtol=0, atol=0)
    torch.save({"kernel": torch.zeros(4, 3, 1, 1)}, tmp_path / "y.pth")
    with pytest.raises(ValueError, match=r"y\.pth: expected the tensors of the model"):
        load_backbone(model, tmp_path / "y.pth")
