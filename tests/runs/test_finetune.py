from __future__ import annotations

import os
from pathlib import Path

import pytest

import dcn
from dcn.data import open_dataset
from dcn.runs.finetune import finetuning, is_model
from tests.data.layouts import LAYOUTS, items

TINY = [
    "model.options={width: 0.125, stem_channels: 8, fpn_channels: 16, fc_channels: 16, rois_per_image: 16}",
    "model.backbone_weights=random",
    "transforms.short=64",
    "transforms.long=64",
    "eval.images=2",
    "workers=0",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LAYOUTS["LabelImg YOLO"].make(tmp_path / "data", items())
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("faster_rcnn_r18_fpn", True), ("bccd_plain", False), ("my.yaml", False), ("nothing", False)],
)
def test_models_and_recipes(name: str, expected: bool) -> None:
    assert is_model(name) is expected


def test_settings_follow_the_data(folder: Path) -> None:
    recipe = finetuning("faster_rcnn_r18_fpn", [f"data.root={folder}"])
    # 48 pixels high, and a quarter of the objects below 32 pixels there: the size grows, here to the least size.
    assert (recipe.transforms.short, recipe.transforms.long) == ((320,), 534)
    assert (recipe.schedule.epochs, recipe.schedule.milestones) == (100, (75, 92))
    assert recipe.eval.every == 10
    assert recipe.data.format == "auto"
    assert recipe.schedule.scaled_lr == pytest.approx(0.005)


def test_more_images_take_fewer_epochs(tmp_path: Path) -> None:
    LAYOUTS["CSV"].make(tmp_path, items(500))
    recipe = finetuning("faster_rcnn_r18_fpn", [f"data.root={tmp_path}"])
    assert recipe.schedule.epochs == round(24_000 / len(open_dataset("auto", tmp_path, "train")))
    assert 60 < recipe.schedule.epochs < 80


def test_changes_are_kept(folder: Path) -> None:
    words = [f"data.root={folder}", "schedule.steps=3", "transforms.short=96", "schedule.batch_size=2"]
    recipe = finetuning("faster_rcnn_r18_fpn", words)
    assert (recipe.schedule.steps, recipe.schedule.epochs, recipe.schedule.batch_size) == (3, None, 2)
    assert recipe.transforms.short == (96,)


def test_a_name_and_a_folder_train(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # as in tests/engine
    words = [*TINY, "schedule.steps=1", "eval.report=false"]
    run = dcn.train("faster_rcnn_r18_fpn", folder, output=tmp_path, changes=words, device="cpu")
    assert run.folder.parent == tmp_path / "faster_rcnn_r18_fpn"
    assert (run.finished, run.recipe.data.format, run.recipe.transforms.short) == (True, "auto", (64,))
    assert (run.folder / "splits.json").is_file()


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the folder of the data, got none; write dcn train faster"):
        dcn.train("faster_rcnn_r18_fpn", output=tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"model\.backbone_weights: expected weights for the backbone"):
        dcn.train("faster_rcnn_r50_fpn", folder, output=tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists()
