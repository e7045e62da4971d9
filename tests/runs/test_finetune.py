from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import dcn
from dcn.data import open_dataset
from dcn.engine.config import Recipe
from dcn.engine.distributed import World
from dcn.runs.finetune import finetuning, is_model
from tests.data.layouts import LAYOUTS, items, make_index_masks

TINY = [
    "model.options={width: 0.125, stem_channels: 8, fpn_channels: 16, fc_channels: 16, rois_per_image: 16}",
    "model.backbone_weights=random",
    "transforms.short=64",
    "transforms.long=64",
    "eval.images=2",
    "workers=0",
]


ALONE = World(torch.device("cpu"))


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The limits that were given to the measurement, which takes no time here."""
    given: list[int | None] = []

    def measured(recipe: Recipe, model: object, data: object, world: World, most: int | None = None) -> int | None:
        given.append(most)
        return 4

    monkeypatch.setattr("dcn.runs.finetune.measured_batch_size", measured)
    return given


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


def test_settings_follow_the_data(folder: Path, limits: list[int | None]) -> None:
    recipe = finetuning("faster_rcnn_r18_fpn", [f"data.root={folder}", "model.backbone_weights=random"], ALONE)
    # 48 pixels high, and a quarter of the objects below 32 pixels there: the size grows, here to the least size.
    assert (recipe.transforms.short, recipe.transforms.long) == ((320,), 534)
    assert (recipe.schedule.epochs, recipe.schedule.milestones) == (100, (75, 92))
    assert recipe.eval.every == 10
    assert recipe.data.format == "auto"
    assert recipe.schedule.batch_size == 4
    assert recipe.schedule.scaled_lr == pytest.approx(0.005)
    # 8 images in 100 epochs are 800 in all: 1000 steps need batches of one. 200 steps of four are a warm-up of 20.
    assert limits == [1]
    assert recipe.schedule.warmup.steps == 20


def test_more_images_take_fewer_epochs(tmp_path: Path, limits: list[int | None]) -> None:
    LAYOUTS["CSV"].make(tmp_path, items(500))
    recipe = finetuning("faster_rcnn_r18_fpn", [f"data.root={tmp_path}", "model.backbone_weights=random"], ALONE)
    assert recipe.schedule.epochs == round(24_000 / len(open_dataset("auto", tmp_path, "train")))
    assert 60 < recipe.schedule.epochs < 80
    assert limits == [16]


def test_changes_are_kept(folder: Path) -> None:
    words = [f"data.root={folder}", "schedule.steps=3", "transforms.short=96", "schedule.batch_size=2"]
    recipe = finetuning("faster_rcnn_r18_fpn", words, ALONE)
    assert (recipe.schedule.steps, recipe.schedule.epochs, recipe.schedule.batch_size) == (3, None, 2)
    assert recipe.transforms.short == (96,)


def test_a_name_and_a_folder_train(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # as in tests/engine
    words = [*TINY, "schedule.steps=1", "eval.report=false"]
    run = dcn.train("faster_rcnn_r18_fpn", folder, output=tmp_path, changes=words, device="cpu")
    assert run.folder.parent == tmp_path / "faster_rcnn_r18_fpn"
    assert (run.finished, run.recipe.data.format, run.recipe.transforms.short) == (True, "auto", (64,))
    assert (run.folder / "splits.json").is_file()
    assert run.recipe.schedule.batch_size == 8  # of 8 images


def test_a_segmentation_model_trains_on_outlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    LAYOUTS["LabelMe"].make(tmp_path / "data", items())
    words = ["model.options={width: 0.125, head_channels: 8}", "model.backbone_weights=random", "workers=0"]
    words += ["schedule.steps=1", "transforms.short=48", "transforms.long=64", "eval.images=2"]
    run = dcn.train("deeplab_r18", tmp_path / "data", output=tmp_path, changes=words, device="cpu")
    assert (run.recipe.eval.metric, run.recipe.schedule.lr_multipliers) == ("miou", {"head.*": 2.0})
    assert run.metrics.keys() >= {"mIoU"}


def test_data_of_the_other_task(tmp_path: Path) -> None:
    LAYOUTS["VOC devkit"].make(tmp_path / "boxes", items())
    make_index_masks(tmp_path / "masks", beside=False)
    with pytest.raises(ValueError, match="expected an outline for every object, for its segmentation mask, got boxes"):
        finetuning("deeplab_r18", [f"data.root={tmp_path / 'boxes'}"], ALONE)
    with pytest.raises(ValueError, match="data: expected boxes for a detector, got none in masks:train"):
        finetuning("faster_rcnn_r18_fpn", [f"data.root={tmp_path / 'masks'}"], ALONE)


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the folder of the data, got none; write dcn train faster"):
        dcn.train("faster_rcnn_r18_fpn", output=tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"model\.backbone_weights: expected weights for the backbone"):
        dcn.train("faster_rcnn_r50_fpn", folder, output=tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", ["model.weights", "model.backbone_weights"])
def test_missing_weights_are_named_before_memory_is_measured(key: str, folder: Path, limits: list[int | None]) -> None:
    with pytest.raises(ValueError, match=rf"{key}: expected a file, .*, got 'nothing\.pth'"):
        finetuning("faster_rcnn_r18_fpn", [f"data.root={folder}", f"{key}=nothing.pth"], ALONE)
    assert limits == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("faster_rcnn_r18_fpm", "'faster_rcnn_r18_fpn'"), ("synthetic_plane", "'synthetic_plain'")],
    ids=["model", "recipe"],
)
def test_a_mistyped_name_is_answered_with_models_and_recipes(name: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"a recipe or a model, or a .yaml file, got '{name}'; did you mean {near}"):
        dcn.train(name, data=tmp_path, output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
