"""Weights of detectron2, against detections that detectron2 made with them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dcn
from dcn.models import build
from dcn.models.checkpoints import BackboneFacts, load_backbone, read_backbone
from dcn.runs.build import start_from
from dcn.runs.import_weights import Training, import_weights
from tests.models.checkpoints.detectron2_weights import made_image, made_weights

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "foreign" / "detectron2.json").read_text()
)
BGR, TORCHVISION = BackboneFacts("bgr_mean", "caffe"), BackboneFacts("rgb_std", "pytorch")
# name, scale of the first layer's weights, what the file does not say, the model, how it was trained
CASES: dict[str, tuple[float, Training, str, BackboneFacts]] = {
    "mask_rcnn_modulated": (1 / 58, Training(), "mask_rcnn_r50_fpn_mdconv_c3-c5", BGR),
    "cascade_mask_rcnn": (1 / 58, Training(), "cascade_mask_rcnn_r50_fpn", BGR),
    "faster_rcnn_torchvision": (1.0, Training("rgb_std", "pytorch"), "faster_rcnn_r50_fpn", TORCHVISION),
    "faster_rcnn_groups": (1.0, Training(), "faster_rcnn_r50_fpn", TORCHVISION),
}


def _write(path: Path, arrays: Mapping[str, Any], author: str = "Detectron2 Model Zoo") -> Path:
    path.write_bytes(pickle.dumps({"model": dict(arrays), "__author__": author}, protocol=4))
    return path


def _arrays(case: str) -> dict[str, Any]:
    return made_weights(RECORDED[case]["shapes"], CASES[case][0])


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
@pytest.mark.parametrize("case", CASES)
def test_detections_of_detectron2(case: str, ending: str, tmp_path: Path) -> None:
    """Boxes within a thousandth of a pixel: the recording has so many digits; scores have float32's rounding."""
    _, training, name, facts = CASES[case]
    file, output, arrays = tmp_path / f"model_final{ending}", tmp_path / "x.safetensors", _arrays(case)
    if ending == ".pkl":
        _write(file, arrays)
    else:
        state = {key: torch.from_numpy(value) for key, value in arrays.items()}
        torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 9}, file)
    said = import_weights(file, output, training=training)
    assert said.startswith(f"{name}, 3 classes, built with ")
    model: Any = dcn.load(output, optimize=False).model
    assert BackboneFacts(model.preprocess.name, model.backbone.style, model.backbone.pool) == facts
    with torch.no_grad():
        found = model([torch.from_numpy(made_image(90, 130))])[0]
    expected = RECORDED[case]
    order = np.lexsort((np.array(expected["boxes"]).sum(1).round(1), -np.array(expected["scores"]).round(4)))
    own = np.lexsort((found.boxes.sum(1).numpy().round(1), -found.scores.numpy().round(4)))
    assert found.labels[own].tolist() == [expected["labels"][index] for index in order]
    np.testing.assert_allclose(found.boxes[own].numpy(), np.array(expected["boxes"])[order], atol=2e-3)
    np.testing.assert_allclose(found.scores[own].numpy(), np.array(expected["scores"])[order], atol=2e-6)
    if "areas" in expected:
        areas = found.masks[own].flatten(1).sum(1).numpy()
        np.testing.assert_allclose(areas, np.array(expected["areas"])[order], atol=1)


def test_a_backbone_of_caffe2_is_that_of_detectron2(tmp_path: Path) -> None:
    """The ImageNet file ``R-50.pkl``: no statistics, since they are in the scales; detectron2's names are recorded."""
    random, norms = np.random.RandomState(0), ("norm.weight", "norm.bias")
    own: Any = build("faster_rcnn_r50_fpn", ["a"], width=1 / 16, stem_channels=4, preprocess="bgr_mean", style="caffe")
    shapes = {name: value.shape for name, value in own.backbone.state_dict().items()}
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for caffe2, name in RECORDED["caffe2_names"]:
        layer = name.replace("stem.conv1.norm", "bn1").replace("stem.", "").replace(".shortcut.norm", ".downsample.1")
        layer = layer.replace(".shortcut", ".downsample.0")
        for number in "123":
            layer = layer.replace(f".conv{number}.norm", f".bn{number}")
        layer = layer if not layer.startswith("res") else f"layer{int(layer[3]) - 1}{layer[4:]}"
        value = random.randn(*shapes.get(layer, (2,))).astype(np.float32)
        old[caffe2] = value
        if name.endswith(norms):
            new[name.removesuffix("weight").removesuffix("bias") + "running_mean"] = np.zeros_like(value)
            new[name.removesuffix("weight").removesuffix("bias") + "running_var"] = np.full_like(value, 1 - 1e-5)
        if not name.startswith(("fc1000", "stem.conv1.bias")):
            new[name] = value
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({**old, "conv1_w_momentum": np.zeros(3)}, protocol=2))
    first, facts = read_backbone(tmp_path / "R-50.pkl")
    second, others = read_backbone(_write(tmp_path / "R-50-new.pkl", new))
    assert facts == others == BGR
    assert first.keys() == second.keys() == {name for name in shapes if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert load_backbone(own, tmp_path / "R-50.pkl") == []
    assert torch.equal(own.backbone.layer2[0].downsample[0].weight, torch.from_numpy(old["res3_0_branch1_w"]))
    wrong = build("faster_rcnn_r50_fpn", ["a"], width=1 / 16, stem_channels=4)
    said = (
        r"expected a model built with preprocess='bgr_mean', style='caffe', pool='floor', as its weights need it; got"
        r" .*; write model.options.preprocess=bgr_mean model.options.style=caffe$"
    )
    with pytest.raises(ValueError, match=said):
        load_backbone(wrong, tmp_path / "R-50.pkl")


def test_the_backbone_of_a_detector_that_is_not_here(tmp_path: Path) -> None:
    arrays = {name: value for name, value in _arrays("mask_rcnn_modulated").items() if ".bottom_up." in name}
    arrays["proposal_generator.fcos_head.cls_logits.weight"] = np.zeros((2, 2), np.float32)
    file = _write(tmp_path / "FCOS_R_50_1x.pkl", arrays)
    said = import_weights(file, tmp_path / "x.safetensors")
    assert "a backbone for model.backbone_weights" in said
    assert "preprocess=bgr_mean, style=caffe, pool=floor" in said
    assert said.endswith("left out, as no model here has it: proposal_generator.fcos_head.cls_logits.weight")
    with pytest.raises(ValueError, match="holds a detector of detectron2 that no model here is"):
        import_weights(file, tmp_path / "x.safetensors", name="faster_rcnn_r50_fpn")
    with pytest.raises(ValueError, match="expected a detector that is here too"):
        dcn.load("faster_rcnn_r50_fpn", weights=file)


def test_the_last_stage_of_a_c4_model_is_in_its_heads(tmp_path: Path) -> None:
    arrays = {name: value for name, value in _arrays("faster_rcnn_torchvision").items() if ".bottom_up." in name}
    whole, _ = read_backbone(_write(tmp_path / "fpn.pkl", arrays))
    c4 = {name.replace("bottom_up.", ""): value for name, value in arrays.items()}
    c4 = {name.replace("backbone.res5", "roi_heads.res5"): value for name, value in c4.items()}
    assert "roi_heads.res5.2.conv3.weight" in c4
    state, _ = read_backbone(_write(tmp_path / "c4.pkl", c4 | {"roi_heads.box_predictor.cls_score.bias": np.ones(2)}))
    assert state.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in state.items())


def test_by_name_and_as_a_start(tmp_path: Path) -> None:
    file = _write(tmp_path / "model_final.pkl", _arrays("mask_rcnn_modulated"))
    named = dcn.load("mask_rcnn_r50_fpn_mdconv_c3-c5", weights=file, classes=["a", "b", "c"], optimize=False)
    model: Any = named.model
    assert model.preprocess.name == "bgr_mean"
    with pytest.raises(
        ValueError, match=r"expected mask_rcnn_r50_fpn_mdconv_c3-c5, the model of .*, got mask_rcnn_r50"
    ):
        dcn.load("mask_rcnn_r50_fpn", weights=file)
    with pytest.raises(ValueError, match=r"got those of detectron2; convert them with `dcn import model_final.pkl"):
        start_from(model, file)
    import_weights(file, tmp_path / "x.safetensors")
    assert start_from(model, tmp_path / "x.safetensors") == []
    other = build("mask_rcnn_r50_fpn_mdconv_c3-c5", ["a", "b", "c"], width=1 / 16, stem_channels=4)
    with pytest.raises(ValueError, match=r"model.options.preprocess: expected 'bgr_mean', with which .* was trained"):
        start_from(other, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ([103.53, 116.28, 123.675], [1.0, 1.0, 1.0], BGR),
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], TORCHVISION),
    ],
    ids=["bgr", "rgb"],
)
def test_a_file_that_states_its_normalisation(
    mean: list[float], std: list[float], expected: BackboneFacts, tmp_path: Path
) -> None:
    arrays = _arrays("faster_rcnn_torchvision")
    buffers = {"pixel_mean": np.array(mean, np.float32).reshape(3, 1, 1), "pixel_std": np.array(std, np.float32)}
    assert read_backbone(_write(tmp_path / "x.pkl", arrays | buffers))[1] == expected
    with pytest.raises(ValueError, match=r"x.pkl: expected a normalisation that this package has, got the means"):
        read_backbone(_write(tmp_path / "x.pkl", arrays | buffers | {"pixel_std": np.array([2.0, 2, 2])}))


def test_words_that_are_no_choice() -> None:
    with pytest.raises(ValueError, match="--style: expected one of caffe, pytorch, got 'x'"):
        Training(style="x")
