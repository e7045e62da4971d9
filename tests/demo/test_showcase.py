"""The four demos: what they draw, with the model that comes with the package and with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dcn
from dcn import boxes
from dcn.cli.main import main
from dcn.data import open_dataset
from dcn.demo.shipped import DETECTOR, sample_images
from dcn.demo.showcase import SHOWS, Settings, _background, offsets_picture, roi_parts_picture
from dcn.engine import load_recipe
from dcn.engine.checkpoint import halve_weights, read_weights, save_weights
from dcn.engine.recipe import shipped_weights
from dcn.models import build
from dcn.runs.predictor import Predictor
from dcn.runs.sources import names_a_model, shipped_models
from dcn.structures import Target


@pytest.fixture(scope="module")
def detector() -> Predictor:
    return dcn.load(DETECTOR)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (name, image), *_ = sample_images(1)
    path = tmp_path / f"{name}.png"
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.mark.parametrize("name", SHOWS)
def test_every_demo_runs_without_a_word(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dcn.demo.showcase.named_images", lambda _words, model: sample_images(1, model))
    assert main(["demo", name, "--device", "cpu"]) == 0
    (path,) = capsys.readouterr().out.split()
    assert path == f"demos/{name}/letters_0.jpg"
    with Image.open(path) as picture:
        assert min(picture.size) >= 500
    assert main(["demo", name, "--device", "cpu"]) == 0  # an earlier picture is replaced


def test_the_users_images_and_units(photo: Path, tmp_path: Path) -> None:
    words = ["demo", "offsets", DETECTOR, str(photo), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--at", "40,60", "--at", "100,30", "--layer", "backbone.layer3.0.conv2"]) == 0
    assert [path.name for path in (tmp_path / "out").glob("*.jpg")] == ["letters_0.jpg"]


def test_the_detections_are_those_of_the_model(detector: Predictor) -> None:
    (_, image), *_ = sample_images(1)
    detected = detector.predict(image, min_score=0.5)
    assert len(detected) >= 2
    picture = SHOWS["detection"].picture(detector, image, Settings())
    none = SHOWS["detection"].picture(detector, image, Settings(min_score=1.0))
    changed = (picture != none).any(0).nonzero().float() * image.shape[1] / picture.shape[1]
    low, high = changed.amin(0), changed.amax(0)
    assert float(low[0]) <= float(detected.boxes[:, 1].min()) + 2
    assert float(high[0]) >= float(detected.boxes[:, 3].max()) - 2


def test_background_is_far_from_the_boxes() -> None:
    x, y = _background(torch.tensor([[0.0, 0.0, 60.0, 100.0]]), (100, 100))
    assert x == pytest.approx(80, abs=6)
    assert 15 <= y <= 85
    x, y = _background(torch.zeros(0, 4), (100, 60))
    assert x == pytest.approx(30, abs=4)
    assert 25 <= y <= 75


def test_what_a_model_does_not_have_is_refused(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "fpn_channels": 16, "fc_channels": 16}
    path = tmp_path / "plain.safetensors"
    save_weights(path, build("faster_rcnn_r18_fpn", ("a", "b"), **options), "faster_rcnn_r18_fpn", options)
    for words, message in (
        (["roi-parts", str(path)], "expected a detector with deformable RoI pooling"),
        (["offsets", str(path)], "expected at least one 2-D deformable convolution"),
        (["segmentation", str(path)], "expected a segmentation model, got a detection model"),
        (["offsets", DETECTOR, "--layer", "stem"], "layer: expected one of backbone.layer2.0.conv2"),
    ):
        out = tmp_path / words[0] / "out"
        assert main(["demo", words[0], words[1], str(photo), *words[2:], "-o", str(out), "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists() or not list(out.glob("*.jpg"))


def test_pooling_alone_may_be_deformable() -> None:
    """Table 3 of the paper has such models: they have parts, but no offsets of convolutions."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "head_channels": 16, "test_size": (64, 96)}
    predictor = Predictor(build("rfcn_r101_dpool", ("a", "b"), depth=18, **options), torch.device("cpu"))
    picture = roi_parts_picture(predictor, sample_images(1)[0][1], Settings(min_score=0.0))
    assert picture.shape[0] == 3
    with pytest.raises(ValueError, match="expected at least one 2-D deformable convolution"):
        offsets_picture(predictor, sample_images(1)[0][1])


def test_pictures_are_arrays_too(detector: Predictor) -> None:
    image = sample_images(1)[0][1]
    for draw in (offsets_picture, roi_parts_picture):
        picture = draw(detector, image)
        assert picture.dtype == torch.uint8
        assert picture.shape[0] == 3
    nothing = roi_parts_picture(detector, image, Settings(min_score=1.0))
    assert nothing.shape[1] < 600


def test_what_ships_is_small_and_knows_its_recipe() -> None:
    for name, path in shipped_models().items():
        assert path.stat().st_size < 8e6
        _, info = read_weights(path)
        recipe = load_recipe(name)
        assert (info.model, info.step) == (recipe.model.name, recipe.schedule.steps)
        assert all(info.options[key] == value for key, value in recipe.model.options.items())
    assert set(shipped_weights()) - {f"{name}.safetensors" for name in shipped_models()} == {
        "synthetic_r18.safetensors"
    }


def test_the_images_were_not_trained_on() -> None:
    options = load_recipe(DETECTOR).data.options
    assert options["seed"] not in (0, 1000)  # the demo's data and that of the shipped backbone
    trained = open_dataset("synthetic", None, "train", **{**options, "length": 4})
    for _, image in sample_images(2):
        assert not any(torch.equal(image, trained[index].image) for index in range(4))


def test_the_shipped_detector_detects(detector: Predictor) -> None:
    """It was measured on 200 images (docs/demo.md); here 12, for a broken file."""
    options = {**load_recipe(DETECTOR).data.options, "length": 12}
    dataset = open_dataset("synthetic", None, "test", **options)
    right = total = 0
    for index in range(12):
        sample = dataset[index]
        assert isinstance(sample.target, Target)
        detected = detector.predict(sample.image, min_score=0.5)
        overlap = boxes.iou(sample.target.boxes, detected.boxes)
        same = sample.target.labels[:, None] == detected.labels
        right += int(((overlap > 0.5) & same).any(1).sum())
        total += len(sample.target)
    assert right / total > 0.6


def test_halved_weights_are_the_same_to_float16(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "head_channels": 16}
    model = build("deeplab_r18_dcn", ("a", "b"), **options)
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_weights(whole, model, "deeplab_r18_dcn", options, step=7)
    halve_weights(whole, half)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    (state, info), (before, other) = read_weights(half), read_weights(whole)
    assert info == other
    for name, value in before.items():
        if value.is_floating_point():
            np.testing.assert_allclose(state[name].float().numpy(), value.numpy(), rtol=1e-3, atol=6e-8)
    model.get_parameter("head.fc6.bias").data[0] = 1e6
    save_weights(whole, model, "deeplab_r18_dcn", options)
    with pytest.raises(ValueError, match=r"fit into float16, got others in head\.fc6\.bias"):
        halve_weights(whole, half)


@pytest.mark.parametrize(
    ("word", "expected"),
    [(DETECTOR, True), ("rfcn_r101_dcn", True), ("a.safetensors", True), ("photo.jpg", False), ("photos", False)],
)
def test_models_are_told_from_images(
    word: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert names_a_model(word) == expected
