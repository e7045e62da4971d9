"""A made checkpoint of each published detector, under its published file name, becomes a model that predicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dcn.class_names import COCO_CLASSES
from dcn.cli.main import main
from dcn.models import build
from dcn.models.zoo.weights import PUBLISHED_WEIGHTS

DETECTORS = [name for name, row in PUBLISHED_WEIGHTS.items() if row.kind == "detector"]


@pytest.mark.filterwarnings("ignore:.*not the published file:UserWarning")
@pytest.mark.parametrize("name", DETECTORS)
def test_a_checkpoint_under_its_published_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCN_CACHE", str(tmp_path / "cache"))
    file, photo = tmp_path / PUBLISHED_WEIGHTS[name].file_name, tmp_path / "photo.jpg"
    torch.save({"meta": {"CLASSES": COCO_CLASSES}, "state_dict": build(name, COCO_CLASSES).state_dict()}, file)
    Image.new("RGB", (320, 200), (120, 90, 60)).save(photo)
    assert main(["weights", "get", name, "--from", str(file)]) == 0
    command = ["predict", name, str(photo), "--output", str(tmp_path / "out"), "transforms.test_short=160"]
    assert main(command) == 0
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert main(["weights", "get", name, "--from", str(file)]) == 2
