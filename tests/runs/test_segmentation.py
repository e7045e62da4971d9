"""From a recipe to segmentation maps on the embedded data: train, evaluate, predict."""

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
from dcn.cli.main import main
from dcn.data import open_dataset, write_image
from dcn.engine import load_recipe, recipe_names
from dcn.engine.optim import make_optimizer
from dcn.models import build
from dcn.runs.build import model_options
from dcn.runs.segmentation import SegmentationTask, comparable
from dcn.structures import SegmentationMap
from dcn.vis.palette import voc_palette
from tests.data.made_masks import make_cityscapes

RECIPE = """\
base: synthetic_segmentation
model: {options: {width: 0.125, stem_channels: 8, head_channels: 16}}
data: {options: {length: 4, size: [64, 64], num_classes: 3, glyph_size: [24, 38]}}
transforms: {short: [64], long: 64, scale: [0.8, 1.25], crop: [48, 64], test_short: 48}
schedule: {epochs: null, steps: 3, batch_size: 2, lr_batch_size: null, milestones: []}
eval: {every: 3, images: 2, pictures: 1, report: false}
tta: {flip: true}
workers: 0
log_every: 1
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    (folder / "tiny.yaml").write_text(RECIPE)
    assert main(["train", str(folder / "tiny.yaml"), "--output", str(folder), "--name", "a", "--device", "cpu"]) == 0
    return folder / "tiny" / "a"


def test_training_leaves_metrics_and_pictures(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss_seg"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 3
    assert all(0 < loss < 5 for loss in losses)
    assert 0 <= rows[-1]["mIoU"] <= 1
    assert {"IoU/background", "accuracy", "mean_accuracy"} <= rows[-1].keys()
    assert len(list((run / "pictures").glob("*.jpg"))) == 1
    assert (run / "ap.png").is_file()


def test_eval_counts_what_it_saves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its metrics, again from the PNGs and the confusion matrix that it wrote."""
    assert main(["eval", str(run), "--split", "val", "--save", "--json", "--device", "cpu"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == json.loads((run / "eval" / "val.json").read_text())
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
    assert metrics["mIoU"] == pytest.approx(np.mean(right / np.maximum(union, 1)))


def test_predict_writes_maps_and_pictures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset("synthetic", None, "test", length=1, size=[64, 80], num_classes=3, glyph_size=[24, 38])
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", dataset[0].image)
    (tmp_path / "x" / "broken.jpg").write_bytes(b"nothing")
    words = [str(tmp_path / "x"), str(tmp_path / "y"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["predict", str(run), *words, "--keep-size", "tta.window=48,48", "tta.overlap=16"]) == 1
    assert "segmentation maps of 2 images; 1 image could not be read" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".")
    assert names == ["a.jpg", "a.png", "a_1.jpg", "a_1.png", "segmentation.jsonl"]
    stored = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert stored.shape == (64, 80)
    assert stored.max() <= 3
    records = [json.loads(line) for line in (tmp_path / "out" / "segmentation.jsonl").read_text().splitlines()]
    classes = dcn.load(run, device="cpu").classes
    pixels = {classes[int(label)]: int((stored == label).sum()) for label in np.unique(stored)}
    assert records[0]["pixels"] == pixels
    whole = dcn.load(run, device="cpu").predict(tmp_path / "x" / "a.png")
    assert whole.labels.shape == (64, 80)


def test_files_for_the_server_of_cityscapes(tmp_path: Path) -> None:
    dataset = open_dataset("cityscapes", make_cityscapes(tmp_path), "val")
    target = dataset[0].target
    assert isinstance(target, SegmentationMap)
    prediction = SegmentationMap(torch.where(target.labels == 255, 13, target.labels))
    task, config = SegmentationTask(), load_recipe("cityscapes_deeplab").eval
    metric = task.make_metric(config, torch.nn.Identity(), dataset)
    task.update(metric, [prediction], [target], config)
    metrics = metric.compute()
    assert metrics["accuracy"] == 1
    assert metrics["mIoU"] == pytest.approx(11 / 19)
    writer = task.result_writer(tmp_path / "o", "val", dataset)
    writer.add([prediction], [target])
    name = str(target.image_id)
    ids = np.asarray(Image.open(tmp_path / "o" / "val_server" / "ulm" / f"{name}.png"))
    stored = np.asarray(Image.open(tmp_path / f"gtFine/val/ulm/{name}_gtFine_labelIds.png"))
    assert np.array_equal(ids, np.where(target.labels.numpy() == 255, 26, stored))
    palette = Image.open(tmp_path / "o" / "val_maps" / f"{name}.png").getpalette()
    assert palette is not None
    assert palette[:3] == [128, 64, 128]


def test_names_from_a_data_set_stay_in_the_folder(tmp_path: Path) -> None:
    """As in `evil = "../../x"`: no file is written outside, and two images never share a file."""
    writer = SegmentationTask().result_writer(
        tmp_path / "o", "val", open_dataset("synthetic", None, "val", length=1, semantic=True)
    )
    labels = torch.zeros(4, 4, dtype=torch.int64)
    for name in ("../../evil", "..", "a/b", "a/B"):
        writer.add([SegmentationMap(labels)], [SegmentationMap(labels, name)])
    assert {path.name for path in tmp_path.iterdir()} == {"o"}
    written = sorted(path.relative_to(tmp_path / "o").as_posix() for path in tmp_path.rglob("*.png"))
    assert written == ["val_maps/_.png", "val_maps/a/B_2.png", "val_maps/a/b.png", "val_maps/evil.png"]


@pytest.mark.parametrize("compare_at", ["annotation", "prediction"])
def test_metrics_follow_the_protocol(compare_at: str) -> None:
    """Against indices in NumPy: the prediction (Cityscapes) or the annotation (VOC) is resized, nearest."""
    generator = np.random.default_rng(0)
    prediction, target = (generator.integers(0, 4, size) for size in ((6, 8), (9, 20)))
    small, large = (prediction, target) if compare_at == "annotation" else (target, prediction)
    rows = [int(np.floor(y * small.shape[0] / large.shape[0])) for y in range(large.shape[0])]
    columns = [int(np.floor(x * small.shape[1] / large.shape[1])) for x in range(large.shape[1])]
    resized = small[np.ix_(rows, columns)]
    expected = (resized, target) if compare_at == "annotation" else (prediction, resized)
    maps = [SegmentationMap(torch.from_numpy(labels)) for labels in (prediction, target)]
    compared = comparable(maps[0], maps[1], compare_at)
    assert [np.array_equal(a.numpy(), b) for a, b in zip(compared, expected, strict=True)] == [True, True]


RECIPES = [name for name in recipe_names() if name.startswith(("cityscapes_", "voc12_", "camvid_"))]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_what_exists(name: str) -> None:
    """Options and rates that a model does not have are refused here, not after the data was loaded."""
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
