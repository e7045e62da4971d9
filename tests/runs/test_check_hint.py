"""Errors about the data end with the command that lists all problems; the colours of masks are part of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dcn
from dcn.engine.config import DataConfig
from dcn.runs.check_hint import check_command
from dcn.runs.predict import predict_files
from tests.data.layouts import LAYOUTS, items
from tests.data.made_files import make_voc, voc_object, voc_xml
from tests.runs.small import RECIPE

STEP: dict[str, Any] = {"schedule.steps": 1, "eval.every": 1, "eval.pictures": 0, "eval.report": False, "device": "cpu"}
SEGMENTATION = """
model: {name: deeplab_r18, backbone_weights: random, options: {width: 0.125, stem_channels: 8, head_channels: 8}}
schedule: {steps: 1, batch_size: 2, lr: 0.001}
transforms: {short: [32], long: 64}
eval: {metric: miou}
workers: 0
"""


@pytest.fixture(autouse=True)
def _fast_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # as in tests/engine


def _train(folder: Path, recipe: str, root: Path, options: dict[str, Any] | None = None) -> dcn.Run:
    (folder / "tiny.yaml").write_text(recipe)
    data = {"format": "auto", "root": str(root)}
    changes = [f"data.options={json.dumps(options or {})}"]
    return dcn.train(folder / "tiny.yaml", data, output=folder / "runs", changes=changes, **STEP)


def test_a_fault_of_an_annotation(tmp_path: Path) -> None:
    make_voc(tmp_path / "d", {"a": voc_xml(voc_object(box=(1, 1, 99, 9))), "b": voc_xml(voc_object())})
    with pytest.raises(
        ValueError, match=r"a\.xml: object 0 .*; `dcn data check \S+/d` lists all problems of the data$"
    ):
        _train(tmp_path, RECIPE, tmp_path / "d")


def test_a_fault_met_in_training(tmp_path: Path) -> None:
    LAYOUTS["CVAT COCO"].make(tmp_path / "d", items())
    for image in (tmp_path / "d").rglob("*.jpg"):
        image.write_bytes(image.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"cannot be decoded.*broken=skip.*; `dcn data check .*/d` lists all problems"):
        _train(tmp_path, RECIPE, tmp_path / "d")


def test_other_faults_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(ValueError, match="cannot tell the format") as error:
        _train(tmp_path, RECIPE, tmp_path / "d")
    assert "`dcn data check" not in str(error.value)


def test_the_command_has_the_options_of_the_recipe() -> None:
    options = {"annotations": "a.json", "colors": "my table.txt", "unknown_colors": "ignore", "upright": True}
    data = DataConfig(format="masks", root="d", options=options)
    assert check_command(data, "d") == (
        "dcn data check d --format masks --annotations a.json --colors 'my table.txt' --unknown-colors ignore --upright"
    )
    assert check_command(DataConfig(format="voc", classes=("a", "b c")), "d").endswith(
        " --format voc --classes 'a,b c'"
    )


def test_a_run_keeps_the_colors_of_its_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        labels = np.repeat(np.arange(2), 16)[None].repeat(32, 0)
        for folder, array in (("images", rng.integers(0, 255, (32, 32, 3))), ("masks", labels[..., None] * [9, 80, 7])):
            path = tmp_path / "d" / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    (tmp_path / "table.txt").write_text("0 0 0 wall\n9 80 7 leaf\n")
    monkeypatch.chdir(tmp_path)
    run = _train(tmp_path, SEGMENTATION, Path("d"), {"colors": "table.txt"})
    assert run.recipe.data.options["colors"] == {"wall": [0, 0, 0], "leaf": [9, 80, 7]}
    (tmp_path / "table.txt").unlink()
    monkeypatch.chdir("/")
    metrics = dcn.evaluate(run, split="val", device="cpu", output=tmp_path / "eval", save=True)
    assert {"IoU/wall", "IoU/leaf"} <= set(metrics or {})
    _is_in_colors(tmp_path / "eval" / "val_maps")
    predictor = dcn.load(run)
    assert predictor.predict(tmp_path / "d/images/0.png").colors == ((0, 0, 0), (9, 80, 7))
    predict_files(predictor, sorted((tmp_path / "d" / "images").iterdir()), tmp_path / "predicted")
    _is_in_colors(tmp_path / "predicted")


def _is_in_colors(folder: Path) -> None:
    """Whether the maps of a folder hold the numbers of the classes and show the colours of their masks."""
    files = sorted(folder.rglob("*.png"))
    assert files
    for file in files:
        with Image.open(file) as image:
            palette = image.getpalette()
            assert (image.mode, palette[:9] if palette else None) == ("P", [0, 0, 0, 9, 80, 7, 0, 0, 0])
            assert set(np.unique(np.asarray(image))) <= {0, 1}
