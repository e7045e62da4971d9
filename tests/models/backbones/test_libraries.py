"""Backbones of timm and transformers: the adapter with stand-ins of both, and with the libraries where they are."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import dcn
from dcn.cli.main import main
from dcn.engine.checkpoint import save_weights
from dcn.models import build
from dcn.models.backbones import LibraryBackbone, TimmSpec, TransformersSpec, library_spec
from dcn.models.checkpoints import load_backbone
from dcn.models.inference import prepare
from dcn.nn import fold_batch_norm
from tests.runs.small import RECIPE, write_photos

SMALL = {"fpn_channels": 8, "fc_channels": 8, "test_size": (64, 96), "test_proposals": (20, 10)}
SMALL_RESNET = {
    "model_type": "resnet",
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "embedding_size": 8,
    "layer_type": "basic",
}
CONVNEXT = {"model_type": "convnext", "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
has_timm = importlib.util.find_spec("timm") is not None
has_transformers = importlib.util.find_spec("transformers") is not None
needs_timm = pytest.mark.skipif(not has_timm, reason="timm is not installed; pip install timm")
needs_transformers = pytest.mark.skipif(
    not has_transformers, reason="transformers is not installed; pip install transformers"
)


class Features(nn.Module):
    """What ``timm.create_model(..., features_only=True)`` returns, as far as its documentation promises it.

    Stages have names with underscores where the whole model has dots, as in timm's flattened models.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.channels = [width, width, 2 * width, 2 * width, 4 * width]
        self.feature_info = SimpleNamespace(channels=lambda: self.channels)
        sides = [3, *self.channels]
        for index in range(5):
            stage = nn.Sequential(nn.Conv2d(sides[index], sides[index + 1], 3, 2, 1, bias=False))
            stage.append(nn.BatchNorm2d(sides[index + 1]))
            self.add_module(f"stages_{index}", stage)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.children():
            pixels = stage(pixels).relu()
            maps.append(pixels)
        return maps


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in of timm, and the calls it got."""
    calls: list[dict[str, Any]] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        calls.append({"name": name, **options})
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        return Features(options.get("width", 8))

    module = ModuleType("timm")
    module.create_model = create_model  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader("timm", None)
    monkeypatch.setitem(sys.modules, "timm", module)
    return calls


def test_a_model_of_timm_is_a_backbone(timm: list[dict[str, Any]]) -> None:
    given = {"timm": "tiny", "options": {"width": 4}}
    model: Any = build("faster_rcnn_r50_fpn", ["a", "b"], backbone=given, **SMALL).eval()
    assert timm == [{"name": "tiny", "pretrained": False, "features_only": True, "width": 4}]
    assert model.backbone.out_channels == [4, 8, 8, 16]
    with torch.no_grad():
        (detections,) = model([torch.zeros(3, 64, 96, dtype=torch.uint8)])
    assert detections.boxes.shape[1] == 4


@pytest.mark.parametrize(
    ("norm", "trained", "statistics"), [("eval", True, True), ("frozen", False, True), ("train", True, False)]
)
def test_batch_norm_is_treated_as_asked(timm: list[dict[str, Any]], norm: Any, trained: bool, statistics: bool) -> None:
    backbone = TimmSpec(name="tiny", norm=norm).build().train()
    (own,) = (module for name, module in backbone.named_modules() if name == "inner.stages_0.1")
    assert all(parameter.requires_grad == trained for parameter in own.parameters())
    assert own.training != statistics
    assert all(p.requires_grad for p in backbone.parameters() if p.ndim == 4)


def test_published_weights_of_timm_are_found_by_their_names(timm: list[dict[str, Any]], tmp_path: Path) -> None:
    published = {name.replace("stages_", "stages."): value + 1 for name, value in Features().state_dict().items()}
    save_file({**published, "head.weight": torch.zeros(5, 5)}, tmp_path / "timm.safetensors")
    model: Any = build("faster_rcnn_r50_fpn", ["a"], backbone={"timm": "tiny"}, **SMALL)
    assert load_backbone(model, tmp_path / "timm.safetensors") == []
    for name, value in model.backbone.state_dict().items():
        expected = published[name.removeprefix("inner.").replace("stages_", "stages.")]
        assert torch.equal(value, expected)
    save_file({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors: expected weights of Features .* got names such as layer"):
        load_backbone(model, tmp_path / "other.safetensors")


def test_a_recipe_names_it_and_weights_rebuild_it(
    timm: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "{fpn_channels: 16, fc_channels: 16, rois_per_image: 16, backbone: {timm: tiny}, score_threshold: 0.0}"
    lines = [
        line for line in RECIPE.replace("base: synthetic_deformable\n", "").splitlines() if "train_prop" not in line
    ]
    lines = ["model:", "  name: faster_rcnn_r18_fpn", f"  options: {options}"] + [
        line for line in lines if not line.startswith(("model:", "  options"))
    ]
    recipe = tmp_path / "own.yaml"
    recipe.write_text("\n".join(lines).replace("data: {", "data: {format: synthetic, "))
    command = ["train", str(recipe), "--output", str(tmp_path), "--name", "a", "--device", "cpu"]
    assert main(command) == 2
    assert "model.backbone_weights: expected weights for the backbone, which has 5 norms" in capsys.readouterr().err
    assert main([*command, "model.backbone_weights=random"]) == 0
    (photo,) = write_photos(tmp_path, "photo.png")
    predictor = dcn.load(tmp_path / "own" / "a", device="cpu")
    assert len(predictor.predict(str(photo), min_score=0.0)) > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"expected one of timm and transformers, such as .* got \{\}"),
        ({"timm": "a", "transformers": "b"}, "expected one of timm and transformers"),
        ({"timm": "tiny", "map": 3}, "expected options of timm, got 'map'; did you mean 'maps'"),
        ({"timm": 3}, "timm: expected a name, got 3"),
        ({"timm": "tiny", "maps": 6}, "maps: expected 1 to 5, as many as Features has, got 6"),
        ({"timm": "tiny", "norm": "x"}, "norm: expected 'eval', 'frozen', 'train', got 'x'"),
        ({"timm": "huge"}, r"timm makes no backbone 'huge' with \{\}: Unknown model \(huge\)"),
    ],
)
def test_what_is_no_backbone_is_refused(timm: list[dict[str, Any]], given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        library_spec(given).build()


@pytest.mark.parametrize("given", [{"timm": "resnet18"}, {"transformers": "resnet"}])
def test_a_library_that_is_missing_is_named(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcn.models.backbones.libraries.is_installed", lambda name: False)
    with pytest.raises(ValueError, match=f"pip install {next(iter(given))}"):
        library_spec(given).build()


def test_a_norm_that_does_more_or_comes_first_is_not_folded() -> None:
    class WithReLU(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    models = [nn.Sequential(nn.Conv2d(3, 3, 1), WithReLU(3)), PreActivation()]
    assert [fold_batch_norm(model.eval()) for model in models] == [0, 0]
    assert fold_batch_norm(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()) == 1


@needs_transformers
@pytest.mark.parametrize("config", [SMALL_RESNET, CONVNEXT, SWIN], ids=lambda config: config["model_type"])
def test_transformers_backbones_train_and_keep_their_published_values(config: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageClassification

    torch.manual_seed(0)
    kind = {name: value for name, value in config.items() if name != "model_type"}
    whole = AutoModelForImageClassification.from_config(AutoConfig.for_model(config["model_type"], **kind)).eval()
    save_file({name: value.contiguous() for name, value in whole.state_dict().items()}, tmp_path / "p.safetensors")
    given = {"transformers": config}
    model: Any = build("mask_rcnn_r50_fpn", ["a", "b"], backbone=given, **SMALL)
    load_backbone(model, tmp_path / "p.safetensors")
    assert isinstance(model.backbone, LibraryBackbone)
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        stages = whole(pixels, output_hidden_states=True).hidden_states
        maps = model.backbone.eval()(pixels)
    assert [one.shape[1] for one in maps] == model.backbone.out_channels
    if config["model_type"] == "resnet":  # the others normalise their maps once more
        torch.testing.assert_close(maps[-1], stages[-1])
    target = dcn_target()
    losses = model.train()([torch.zeros(3, 64, 96, dtype=torch.uint8)], [target])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad and p.ndim == 4)
    save_weights(tmp_path / "w.safetensors", model, "mask_rcnn_r50_fpn", {"backbone": given, **SMALL})
    again = dcn.load(tmp_path / "w.safetensors", device="cpu", optimize=False).model
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    prepared: Any = prepare(model.eval()).backbone
    with torch.no_grad():
        torch.testing.assert_close(prepared(pixels)[-1], model.backbone(pixels)[-1], rtol=1e-4, atol=1e-4)


def dcn_target() -> Any:
    from dcn.structures import Target

    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[:, 10:40, 10:40] = True
    return Target(torch.tensor([[10.0, 10, 40, 40]]), torch.tensor([1]), (64, 96), masks=masks)


@needs_transformers
@pytest.mark.parametrize("config", [{"model_type": "no_such_type"}, {"model_type": "bert"}, {}])
def test_transformers_says_why_it_makes_no_backbone(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="backbone: transformers makes no backbone of"):
        TransformersSpec(config=config).build()


@needs_timm
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "regnetx_002", "mobilenetv3_small_050"])
def test_real_models_of_timm(name: str, tmp_path: Path) -> None:
    import timm as library

    torch.manual_seed(0)
    whole = library.create_model(name, pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "p.safetensors")
    model: Any = build("faster_rcnn_r50_fpn", ["a", "b"], backbone={"timm": name}, **SMALL)
    load_backbone(model, tmp_path / "p.safetensors")
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = whole.forward_intermediates(pixels, intermediates_only=True)[-1]
        torch.testing.assert_close(model.backbone.eval()(pixels)[-1], expected)
        prepared: Any = prepare(model.eval()).backbone
        folded = prepared(pixels)[-1]
        torch.testing.assert_close(folded, model.backbone(pixels)[-1], rtol=1e-3, atol=1e-4)
