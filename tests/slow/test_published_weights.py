"""A made checkpoint of each published detector, under its published file name, becomes a model that predicts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from dcn.class_names import COCO_CLASSES
from dcn.cli.main import main
from dcn.engine.checkpoint import read_weights
from dcn.models import build
from dcn.models.zoo.weights import PUBLISHED_WEIGHTS

DETECTORS = [name for name, row in PUBLISHED_WEIGHTS.items() if row.kind == "detector"]


@pytest.mark.filterwarnings("ignore:.*not the published file:UserWarning")
@pytest.mark.parametrize("name", DETECTORS)
def test_a_checkpoint_under_its_published_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table's checksums are those of the real files: a made file passes by the checksums of its own archive."""
    monkeypatch.setenv("DCN_CACHE", str(tmp_path / "cache"))
    file, photo = tmp_path / PUBLISHED_WEIGHTS[name].file_name, tmp_path / "photo.jpg"
    state = build(name, COCO_CLASSES).state_dict()
    torch.save({"meta": {"CLASSES": COCO_CLASSES}, "state_dict": state}, file)
    Image.new("RGB", (320, 200), (120, 90, 60)).save(photo)
    try:
        assert main(["weights", "get", name, "--from", str(file)]) == 0
        converted = Path(capsys.readouterr().out.splitlines()[0])
        weights, info = read_weights(converted)
        assert (info.model, info.classes) == (name, COCO_CLASSES)
        assert state.keys() == weights.keys()
        assert all(torch.equal(value, state[key]) for key, value in weights.items())
        command = ["predict", name, str(photo), "--output", str(tmp_path / "out"), "transforms.test_short=160"]
        assert main(command) == 0
        assert (tmp_path / "out" / "photo.jpg").is_file()
        assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["images"]) == 1
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        converted.unlink()
        capsys.readouterr()
        assert main(["weights", "get", name, "--from", str(file)]) == 2
        assert "the file is damaged" in capsys.readouterr().err
        assert not converted.exists()
    finally:  # up to a gigabyte
        file.unlink()
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
