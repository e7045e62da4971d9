from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcn.models import MODELS
from dcn.models.backbones import ResNet
from dcn.models.checkpoints.backbone import load_backbone
from dcn.models.checkpoints.mxnet import (
    backbone_of,
    export_mxnet,
    load_mxnet,
    model_of,
    mxnet_names,
    read_params,
    write_params,
)
from dcn.models.detection.original.rfcn import rfcn
from dcn.models.options import make_model
from tests.golden.check_network import build_network, own_shapes, read_shapes

# Arguments and parameters of each network, batch norm's statistics (208 arrays, 105,344 values) not counted.
COUNTS = {
    "rfcn_coco": (324, 53_824_401),
    "rfcn_dcn_coco": (334, 63_056_845),
    "rfcn_dcn_voc": (334, 54_007_111),
    "rcnn_coco": (328, 62_091_549),
    "rcnn_dcn_coco": (336, 64_316_503),
    "fpn_coco": (344, 66_063_591),
    "fpn_dcn_coco": (362, 72_225_751),
    "deeplab_cityscapes": (317, 44_637_267),
    "deeplab_dcn_cityscapes": (323, 44_886_153),
    "deform_conv_demo": (330, 51_050_553),
    "deform_psroi_demo": (322, 45_271_761),
}


def _on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_network(name)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name: str) -> None:
    model = _on_meta(name)
    parameters = list(model.parameters())
    assert (len(parameters), sum(parameter.numel() for parameter in parameters)) == COUNTS[name]
    statistics = [buffer for key, buffer in model.named_buffers() if "running" in key]
    assert (len(statistics), sum(buffer.numel() for buffer in statistics)) == (208, 105_344)


@pytest.mark.parametrize("name", COUNTS)
def test_names_and_shapes_of_the_original(name: str, shared: Path) -> None:
    assert own_shapes(_on_meta(name)) == read_shapes(shared / "params" / f"{name}.txt")


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "deform_psroi_demo"])  # never trained
def test_learning_rates_of_the_original(name: str, shared: Path) -> None:
    """The factors of single layers, and 0 for what is never trained."""
    (line,) = [x for x in (shared / "params" / f"{name}.txt").read_text().splitlines() if x.startswith("LRMULT ")]
    reference = {key: float(value) for key, value in json.loads(line.removeprefix("LRMULT ")).items()}
    model: Any = _on_meta(name)
    own = getattr(model, "lr_multipliers", {})
    names = mxnet_names(model)
    result = {names[key].partition(":")[2]: own.get(key, 1.0) * p.requires_grad for key, p in model.named_parameters()}
    # The original fixes stem, stage 2 and all norms by name, without a factor.
    fixed = {key for key in result if re.match(r"conv1_|res2", key) or key.endswith(("_gamma", "_beta"))}
    assert {key for key, factor in result.items() if factor == 0} == fixed | {k for k, v in reference.items() if v == 0}
    assert {k: v for k, v in result.items() if v not in (0, 1)} == {
        k: v for k, v in reference.items() if v not in (0, 1)
    }


SMALL: dict[str, Callable[[], nn.Module]] = {
    "rfcn": lambda: make_model(MODELS["rfcn_r101_dcn"], 2, depth=50, width=0.125, rpn_channels=8, head_channels=8),
    "rfcn-per-class": lambda: make_model(rfcn, 3, depth=50, width=0.125, head_channels=8, class_agnostic=False, bins=3),
    "rcnn": lambda: make_model(MODELS["rcnn_r101_dcn"], 2, depth=50, width=0.125, head_channels=4, fc_channels=8),
    "fpn": lambda: make_model(MODELS["fpn_r101_dcn"], 2, width=0.125, fpn_channels=4, fc_channels=8),
    "deeplab": lambda: make_model(MODELS["deeplab_r101_dcn"], 2, depth=50, width=0.125, head_channels=8),
}


def _randomise(model: nn.Module) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                value.uniform_(0.5, 1.5)


@pytest.mark.parametrize("version", [0, 2], ids=["v0", "v2"])
@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
def test_what_is_exported_is_loaded(make: Callable[[], nn.Module], version: int, tmp_path: Path) -> None:
    first, second = make(), make()
    _randomise(first)
    write_params(tmp_path / "a.params", export_mxnet(first), version)
    load_mxnet(second, tmp_path / "a.params")
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


def test_a_few_names() -> None:
    names = mxnet_names(_on_meta("fpn_dcn_coco"))
    assert names["backbone.bn1.running_var"] == "aux:bn_conv1_moving_var"
    assert names["backbone.layer1.0.downsample.1.weight"] == "arg:bn2a_branch1_gamma"
    assert names["backbone.layer2.3.conv2.conv_offset.bias"] == "arg:res3b3_branch2b_offset_bias"
    assert names["backbone.layer3.22.bn3.bias"] == "arg:bn4b22_branch2c_beta"
    assert names["backbone.layer4.2.conv1.weight"] == "arg:res5c_branch2a_weight"
    assert names["neck.extra_conv.weight"] == "arg:fpn_p6_weight"
    assert names["rpn_head.rpn_conv.bias"] == "arg:rpn_conv_bias"
    assert names["roi_head.pool.levels.3.offset_fc.weight"] == "arg:offset_p5_weight"


def test_a_network_that_the_original_does_not_have() -> None:
    with torch.device("meta"):
        model = MODELS["rpn_r101"](2)
    with pytest.raises(
        ValueError,
        match=r"expected layers that the original MXNet code has, got 'neck\.reduce\.weight'",
    ):
        mxnet_names(model)


# Channel order of a class-agnostic R-FCN with 3 x 3 bins: box (2), coordinate (4), bin (9).
_STDS = {
    "rfcn": [std for _ in range(2) for std in (0.1, 0.1, 0.2, 0.2) for _ in range(49)],
    "rfcn-per-class": [std for _ in range(4) for std in (0.1, 0.1, 0.2, 0.2) for _ in range(9)],
    "rcnn": [0.1, 0.1, 0.2, 0.2] * 3,
    "fpn": [0.1, 0.1, 0.2, 0.2] * 3,
}


@pytest.mark.parametrize("name", _STDS)
def test_copies_for_the_original_test_code(name: str) -> None:
    model = SMALL[name]()
    _randomise(model)
    arrays = export_mxnet(model)
    layer = "rfcn_bbox" if name.startswith("rfcn") else "bbox_pred"
    weight, bias = arrays[f"arg:{layer}_weight"], arrays[f"arg:{layer}_bias"]
    stds = torch.tensor(_STDS[name])
    torch.testing.assert_close(arrays[f"arg:{layer}_bias_test"], bias * stds)
    torch.testing.assert_close(arrays[f"arg:{layer}_weight_test"].flatten(1), weight.flatten(1) * stds[:, None])
    assert not [key for key in export_mxnet(model, test_copies=False) if key.endswith("_test")]


@pytest.mark.parametrize("name", _STDS)
def test_copies_alone_are_turned_back(name: str, tmp_path: Path) -> None:
    first, second = SMALL[name](), SMALL[name]()
    _randomise(first)
    arrays = export_mxnet(first)
    stripped = {key: value for key, value in arrays.items() if f"{key}_test" not in arrays}
    write_params(tmp_path / "a.params", stripped)
    load_mxnet(second, tmp_path / "a.params")
    torch.testing.assert_close(second.state_dict(), first.state_dict())


def test_names_that_do_not_fit_are_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    model = SMALL["deeplab"]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arrays = {name: value + 1 for name, value in export_mxnet(model).items()}
    arrays["arg:fc6_bias"] = torch.ones(3)
    arrays["arg:surplus"] = arrays.pop("arg:score_bias")
    write_params(tmp_path / "a.params", arrays)
    with pytest.raises(ValueError, match=r"got 3 differences; nothing was loaded") as caught:
        load_mxnet(model, tmp_path / "a.params")
    for line in (
        "missing: head.score.bias [2]",
        "unexpected: arg:surplus [2]",
        "misshapen: head.fc6.bias: expected [8]",
    ):
        assert line in str(caught.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("depth", [50, 101])
def test_the_backbone_of_a_whole_network(depth: int, tmp_path: Path) -> None:
    model: Any = make_model(MODELS["rfcn_r101_dcn"], 2, depth=depth, width=0.125)
    _randomise(model)
    arrays: dict[str, Tensor] = export_mxnet(model) | {"arg:fc1000_weight": torch.ones(1000, 256)}
    write_params(tmp_path / "a.params", arrays)
    state = backbone_of(read_params(tmp_path / "a.params"))
    backbone: ResNet = model.backbone
    own = {name: value for name, value in backbone.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert state.keys() == own.keys()
    torch.testing.assert_close(state, own, rtol=0, atol=0)


def test_a_file_without_a_backbone() -> None:
    with pytest.raises(ValueError, match="expected the names of a ResNet"):
        backbone_of({"arg:fc1_weight": torch.ones(1)})


def test_backbone_weights_start_a_detector(tmp_path: Path) -> None:
    source: Any = make_model(MODELS["rfcn_r101"], 2, depth=50, width=0.125)
    _randomise(source)
    write_params(tmp_path / "a.params", export_mxnet(source))
    model: Any = make_model(MODELS["fpn_r101_dcn"], 2, depth=50, width=0.125, deform_layers=1)
    kept = load_backbone(model, tmp_path / "a.params")
    assert kept == ["layer4.2.conv2.conv_offset.weight", "layer4.2.conv2.conv_offset.bias"]
    torch.testing.assert_close(model.backbone.layer4[2].bn3.bias, source.backbone.layer4[2].bn3.bias)
    later = make_model(MODELS["faster_rcnn_r50_fpn"], 2, width=0.125)
    with pytest.raises(
        ValueError, match="expected a model built with preprocess='rgb_mean', style='caffe', pool='ceil'"
    ):
        load_backbone(later, tmp_path / "a.params")


_VOC: dict[str, object] = {"anchor_scales": (8, 16, 32), "max_detections": 300}
RECOGNISED: dict[str, tuple[str, int, dict[str, object]]] = {
    "rfcn_coco": ("rfcn_r101", 80, {}),
    "rfcn_dcn_coco": ("rfcn_r101_dcn", 80, {}),
    "rfcn_dcn_voc": ("rfcn_r101_dcn", 20, _VOC),
    "rcnn_coco": ("rcnn_r101", 80, {}),
    "rcnn_dcn_coco": ("rcnn_r101_dcn", 80, {}),
    "fpn_coco": ("fpn_r101", 80, {}),
    "fpn_dcn_coco": ("fpn_r101_dcn", 80, {}),
    "deeplab_cityscapes": ("deeplab_r101", 19, {}),
    "deeplab_dcn_cityscapes": ("deeplab_r101_dcn", 19, {}),
    "deform_conv_demo": ("rfcn_r101", 20, _VOC | {"deform_layers": 3, "offset_groups": 1, "dilated_offsets": False}),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_a_file_tells_its_network(name: str) -> None:
    arrays = {key: torch.empty(shape, device="meta") for key, shape in own_shapes(_on_meta(name)).items()}
    result = model_of(arrays)
    assert result == RECOGNISED[name]
    with torch.device("meta"):
        rebuilt = make_model(MODELS[result[0]], result[1], **result[2])
    assert own_shapes(rebuilt) == {key: tuple(array.shape) for key, array in arrays.items()}


def test_a_backbone_is_no_network() -> None:
    with pytest.raises(
        ValueError, match="expected an original R-FCN, Faster R-CNN, FPN or DeepLab, got arg:conv1_weight"
    ):
        model_of({"arg:conv1_weight": torch.ones(1)})
