"""``dcn explore``: a run and images into one page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dcn
from dcn.cli.main import main
from dcn.engine.checkpoint import save_weights
from dcn.models import build

OPTIONS: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "head_channels": 16, "test_size": (64, 96)}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "seg.safetensors"
    save_weights(path, build("deeplab_r18_dcn", ("a", "b"), **OPTIONS), "deeplab_r18_dcn", OPTIONS)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("one.jpg", (120, 80)), ("two.png", (64, 64))):
        Image.new("RGB", size, (200, 90, 30)).save(folder / name)
    return folder


def images_of(page: Path) -> list[dict[str, Any]]:
    actual = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert actual is not None
    images: list[dict[str, Any]] = json.loads(actual[1])["images"]
    return images


def test_the_command_writes_the_page(weights: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = photos.parent / "out" / "page.html"
    assert main(["explore", str(weights), str(photos), "-o", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    images = images_of(page)
    assert [image["name"] for image in images] == ["one.jpg", "two.png"]
    assert [(image["width"], image["height"]) for image in images] == [(96, 64), (64, 64)]  # as the model saw them


def test_python_takes_a_predictor_and_arrays(weights: Path, tmp_path: Path) -> None:
    predictor = dcn.load(weights)
    page = dcn.explore(predictor, [Image.new("RGB", (96, 64))], tmp_path / "page.html")
    assert [image["name"] for image in images_of(page)] == ["image 1"]


def test_a_model_without_deformable_layers_is_refused(tmp_path: Path, photos: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_weights(path, build("deeplab_r18", ("a", "b"), **OPTIONS), "deeplab_r18", OPTIONS)
    with pytest.raises(ValueError, match="DeformConv2d"):
        dcn.explore(path, photos, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("images", "message"),
    [pytest.param([], "expected at least one", id="none"), ("gone.jpg", "got none at 'gone.jpg'")],
)
def test_missing_images_are_refused(weights: Path, tmp_path: Path, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcn.explore(weights, images, tmp_path / "page.html")
