"""From a recipe to label maps on the embedded data: train, evaluate, predict."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dcn
from dcn.class_names import CITYSCAPES_CLASSES
from dcn.cli.assemble import model_options
from dcn.cli.label_maps import as_segmenter, judge_maps, palette_of
from dcn.cli.main import main
from dcn.data import open_dataset, write_image
from dcn.engine import load_recipe, recipe_names
from dcn.engine.optim import make_optimizer
from dcn.models import build
from dcn.structures import SegmentationMap
from dcn.vis.palette import voc_palette
from tests.data.made_masks import make_cityscapes

RECIPE = """\
base: synthetic_segmentation
model: {options: {width: 0.125, stem_channels: 8, head_channels: 16}}
data: {options: {length: 4, size: [64, 64], num_classes: 3, glyph_size: [24, 38]}}
transforms: {short: [64], long: 64, scale: [0.8, 1.25], crop: [48, 64], test_short: 48}
schedule: {epochs: null, steps: 3, batch_size: 2, lr_batch_size: null, milestones: []}
eval: {every: 3, images: 2, pictures: 1}
segment: {flip: true}
workers: 0
log_every: 1
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    (folder / "tiny.yaml").write_text(RECIPE)
    assert main(["train", str(folder / "tiny.yaml"), "--output", str(folder), "--name", "a", "--device", "cpu"]) == 0
    return folder / "tiny" / "a"


def test_training_leaves_figures_and_pictures(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss_seg"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 3
    assert all(0 < loss < 5 for loss in losses)
    assert 0 <= rows[-1]["mIoU"] <= 1
    assert {"IoU/background", "accuracy", "mean_accuracy"} <= rows[-1].keys()
    assert len(list((run / "pictures").glob("*.jpg"))) == 1
    assert (run / "ap.png").is_file()


def test_eval_counts_what_it_saves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its figures, again from the PNGs it wrote and from its confusion matrix."""
    assert main(["eval", str(run), "--split", "val", "--save", "--json", "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((run / "eval" / "val.json").read_text())
    dataset = open_dataset(
        "synthetic", None, "val", length=4, size=[64, 64], num_classes=3, glyph_size=[24, 38], semantic=True
    )
    counts = np.zeros((4, 4), dtype=np.int64)
    for index in range(4):
        target = dataset[index].target
        assert isinstance(target, SegmentationMap)
        picture = Image.open(run / "eval" / "val_maps" / f"{index}.png")
        assert (picture.mode, picture.getpalette()) == ("P", [v for color in voc_palette() for v in color])
        np.add.at(counts, (target.labels.numpy(), np.asarray(picture)), 1)
    with (run / "eval" / "val_confusion.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert [[int(cell) for cell in row[1:]] for row in table[1:]] == counts.tolist()
    assert table[0][1:] == list(dataset.classes)
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    assert figures["mIoU"] == pytest.approx(np.mean(right / np.maximum(union, 1)))


def test_predict_writes_maps_and_overlays(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset("synthetic", None, "test", length=1, size=[64, 80], num_classes=3, glyph_size=[24, 38])
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", dataset[0].image)
    (tmp_path / "x" / "broken.jpg").write_bytes(b"nothing")
    words = [str(tmp_path / "x"), str(tmp_path / "y"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["predict", str(run), *words, "--keep-size", "--testing", "window=[48,48]", "overlap=16"]) == 1
    assert "label maps of 2 of 3 images" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "a.png", "a_1.jpg", "a_1.png"]
    stored = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert stored.shape == (64, 80)
    assert stored.max() <= 3
    with pytest.raises(ValueError, match=r"a network for label maps; use dcn\.load_segmenter"):
        dcn.load(run, device="cpu")
    whole = dcn.load_segmenter(run, device="cpu").predict(tmp_path / "x" / "a.png")
    assert whole.labels.shape == (64, 80)


def test_files_for_the_server_of_cityscapes(tmp_path: Path) -> None:
    dataset = open_dataset("cityscapes", make_cityscapes(tmp_path), "val")
    target = dataset[0].target
    assert isinstance(target, SegmentationMap)
    found = SegmentationMap(torch.where(target.labels == 255, 13, target.labels), "ulm_000001_000002")
    figures = judge_maps(load_recipe("cityscapes_deeplab"), [(found, target)], dataset, tmp_path / "o", "val", True)
    assert figures["accuracy"] == 1
    assert figures["mIoU"] == pytest.approx(11 / 19)
    ids = np.asarray(Image.open(tmp_path / "o" / "val_server" / "ulm" / "ulm_000001_000002.png"))
    stored = np.asarray(Image.open(tmp_path / "gtFine/val/ulm/ulm_000001_000002_gtFine_labelIds.png"))
    assert np.array_equal(ids, np.where(target.labels.numpy() == 255, 26, stored))
    maps = Image.open(tmp_path / "o" / "val_maps" / "ulm_000001_000002.png")
    palette = maps.getpalette()
    assert palette is not None
    assert palette[:3] == [128, 64, 128]


def test_palettes() -> None:
    assert palette_of(CITYSCAPES_CLASSES)[18] == (119, 11, 32)
    assert palette_of(["a", "b"]) == voc_palette()


def test_a_detector_has_no_label_maps() -> None:
    detector = build("faster_rcnn_r18_fpn", ["a"], width=0.125, fc_channels=8, fpn_channels=16)
    with pytest.raises(ValueError, match="miou judges label maps, but FasterRCNN finds objects"):
        as_segmenter(detector)


RECIPES = [name for name in recipe_names() if name.startswith(("cityscapes_", "voc12_", "camvid_"))]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_what_exists(name: str) -> None:
    """Options and rates that a network does not have are found here, not after the data was loaded."""
    recipe = load_recipe(name)
    with torch.device("meta"):
        model = build(recipe.model.name, ["a", "b"], **model_options(recipe))
        optimizer = make_optimizer(model, recipe.schedule)
    rates = {name: group["lr_multiplier"] for group in optimizer.param_groups for name in group["names"]}
    offsets = {name for name in rates if name.endswith("conv_offset.bias")}
    last_layers = re.search(r"_dconv(\d)$", name)
    expected = int(last_layers[1]) if last_layers else 3 if name.endswith(("_dcn", "_deformable")) else 0
    assert len(offsets) == expected
    assert {rates[name] for name in (*offsets, "head.fc6.bias", "head.score.bias")} == {2.0}
