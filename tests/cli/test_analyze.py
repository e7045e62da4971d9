"""``dcn analyze`` on generated images, with a detector whose filters are all twice as wide as they start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dcn.analysis import LayerDilation, Spread, count_parameters
from dcn.cli.analyze import _name, _short, table
from dcn.cli.main import main
from dcn.data import open_dataset
from dcn.data.datasets.synthetic import Synthetic
from dcn.engine import save_weights
from dcn.models import build
from dcn.nn import DeformConv2d
from dcn.runs.load import read_model
from tests.data.layouts import make_index_masks

NAME = "faster_rcnn_r18_fpn_mdconv_c3-c5"
LAYERS = ["backbone.layer4.0.conv2", "backbone.layer4.1.conv2"]
DATA: dict[str, Any] = {"length": 3, "size": [64, 96], "num_classes": 3, "glyph_size": [24, 38]}
OPTIONS: dict[str, Any] = {
    "width": 0.125,
    "stem_channels": 8,
    "norm": "train",
    "fpn_channels": 16,
    "fc_channels": 16,
    "train_proposals": (50, 20),
    "test_proposals": (20, 10),
    "deform_stages": ("c5",),
    "test_size": (128, 192),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose recipe shows the images at twice their size: every unit has 16 x 16 pixels of the file."""
    folder = tmp_path_factory.mktemp("analyze")
    torch.manual_seed(0)
    model = build(NAME, open_dataset("synthetic", None, "test", **DATA).classes, **OPTIONS)
    taps = torch.cartesian_prod(torch.arange(3), torch.arange(3)).float().flatten() - 1
    for layer in model.modules():
        if isinstance(layer, DeformConv2d):
            layer.get_parameter("conv_offset.bias").data[:18] = taps * torch.tensor(layer.dilation).repeat(9)
    (folder / "weights").mkdir()
    save_weights(folder / "weights" / "last.safetensors", model, NAME, OPTIONS)
    recipe = {
        "model": {"name": NAME},
        "data": {"format": "synthetic", "options": DATA},
        "transforms": {"short": [128], "long": 192},
        "schedule": {"steps": 1},
        "eval": {"metric": "voc", "batch_size": 2},
        "workers": 0,
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def _command(folder: Path, *words: str) -> list[str]:
    return ["analyze", "effective-dilation", str(folder), "--device", "cpu", *words]


def test_it_prints_writes_and_draws(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, report = tmp_path / "dilation.png", tmp_path / "dilation.json"
    assert main(_command(folder, "--json", str(report), "--figure", str(figure), "--batch", "2")) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "effective dilation on synthetic:test, 3 images, mean ± standard deviation"
    assert printed[1].split() == ["layer", "undeformed", "small", "medium", "large", "background"]
    assert [line.split()[:2] for line in printed[2:4]] == [[name, "1"] for name in LAYERS]
    assert printed[2].endswith("2.00 ± 0.00")
    assert printed[4] == "modulation, mean over the taps of a filter"
    content = json.loads(report.read_text())
    assert (content["images"], content["sides"]) == (3, [32.0, 96.0])
    assert [layer["layer"] for layer in content["layers"]] == LAYERS
    counts = _places_by_hand()
    for layer in content["layers"]:
        for key, value in (("effective_dilation", 2.0), ("modulation", 0.5)):
            actual = layer[key]
            assert {category: one["filters"] for category, one in actual.items()} == counts
            assert actual["background"] == pytest.approx({"filters": counts["background"], "mean": value, "std": 0.0})
            assert actual["large"] == {"filters": 0, "mean": None, "std": None}
    with Image.open(figure) as picture:
        assert picture.format == "PNG"


def _places_by_hand() -> dict[str, int]:
    """Unit (r, c) has its centre at pixel 16 (r, c) + 0.25 of the file: at 32 (r, c) + 0.5 of the image shown."""
    dataset, counts = open_dataset("synthetic", None, "test", **DATA), dict.fromkeys(("small", "medium", "large"), 0)
    counts["background"] = 0
    for index in range(len(dataset)):
        target: Any = dataset[index].target
        for y in range(4):
            for x in range(6):
                center = torch.tensor([16 * x + 0.25, 16 * y + 0.25])
                own = ((target.boxes[:, :2] <= center) & (center < target.boxes[:, 2:])).all(1)
                area = min(target.area[own].tolist(), default=None)
                sizes = [name for name, side in (("small", 32), ("medium", 96)) if area is not None and area < side**2]
                counts["background" if area is None else sizes[0]] += 1
    assert sum(counts.values()) == 3 * 24
    return counts


def test_weights_outside_of_a_run_and_images_and_sides_to_choose(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "dilation.json"
    weights = tmp_path / "model.safetensors"
    weights.write_bytes((folder / "weights" / "last.safetensors").read_bytes())
    elsewhere = [
        "analyze",
        "effective-dilation",
        str(weights),
        "--recipe",
        str(folder / "recipe.yaml"),
        "--device",
        "cpu",
    ]
    assert main([*elsewhere, "--json", str(report), "--images", "2", "--sides", "1", "2"]) == 0
    content = json.loads(report.read_text())
    filters = {category: one["filters"] for category, one in content["layers"][0]["effective_dilation"].items()}
    assert content["images"] == 2
    assert (filters["small"], filters["medium"]) == (0, 0)
    assert filters["large"] + filters["background"] == 2 * 24


@pytest.mark.parametrize(("group", "expected"), [(None, "a.b"), (0, "a.b group 0")], ids=["all", "one"])
def test_a_line_says_which_group(group: int | None, expected: str) -> None:
    assert _name(LayerDilation("a.b", group, 1.0, {}, None)) == expected


def test_the_table_is_aligned() -> None:
    spread = Spread()
    spread.add(torch.tensor([9.0, 11.0]))
    lines = table(
        [("first", "1", {"small": spread, "large": Spread()}), ("b", "12", {"small": spread, "large": spread})], "own"
    )
    assert lines.splitlines() == [
        "layer  own         small         large",
        "first    1  10.00 ± 1.00             -",
        "b       12  10.00 ± 1.00  10.00 ± 1.00",
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["backbone.layer3.0.conv2", "backbone.layer4.0.conv2"], ["layer3.0.conv2", "layer4.0.conv2"]),
        (["model.backbone.layer4.0.conv2", "model.backbone.layer4.1.conv2"], ["layer4.0.conv2", "layer4.1.conv2"]),
        (["body.conv", "body.conv[2]"], ["body.conv", "body.conv[2]"]),
        (["backbone.layer4.0.conv2", "neck.layer4.0.conv2"], ["backbone.layer4.0.conv2", "neck.layer4.0.conv2"]),
    ],
    ids=["backbone", "three-are-kept", "short", "nothing-common"],
)
def test_a_picture_leaves_out_what_all_names_begin_with(names: list[str], expected: list[str]) -> None:
    assert _short(names) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "--batch: expected 1 or more, got 0"),
        (["--images", "0"], "--images: expected 1 or more, got 0"),
        (["--sides", "96", "32"], "sides: expected two lengths in pixels"),
    ],
    ids=["batch", "images", "sides"],
)
def test_what_does_not_fit_is_refused(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_command(folder, *words)) == 2
    assert message in capsys.readouterr().err


def test_images_without_annotations_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a file of COCO's test images is; otherwise all of them would be background."""
    monkeypatch.setattr(Synthetic, "annotated", False, raising=False)
    assert main(_command(folder)) == 2
    assert "synthetic:test: expected annotations" in capsys.readouterr().err


@pytest.mark.parametrize("semantic", [False, True], ids=["boxes", "maps"])
def test_a_segmentation_model_is_measured_on_any_data(semantic: bool, tmp_path: Path) -> None:
    """Its classes need not be those of the data; objects are boxes or regions of a map."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "head_channels": 16, "test_size": (64, 96)}
    weights, report, figure = tmp_path / "seg.safetensors", tmp_path / "a.json", tmp_path / "a.png"
    save_weights(weights, build("deeplab_r18_dcn", ("a", "b"), **options), "deeplab_r18_dcn", options)
    data = [f"data.options.{key}={json.dumps(value)}" for key, value in {**DATA, "semantic": semantic}.items()]
    words = [str(weights), "--recipe", "synthetic_segmentation", *data, "transforms.short=64", "transforms.long=96"]
    for what in (["effective-dilation"], ["receptive-field", "--units", "1"]):
        command = ["analyze", *what, *words, "--device", "cpu", "--json", str(report), "--figure", str(figure)]
        assert main([*command, "--sides", "20", "30"]) == 0
        content = json.loads(report.read_text())
        rows = content["layers"][0]["effective_dilation"] if "layers" in content else content["with_offsets"]
        assert rows["background"]["filters"] > 0
        assert sum(rows[kind]["filters"] for kind in ("small", "medium", "large")) > 0
        figure.unlink()


@pytest.mark.parametrize("names", [None, "background\nroad\ngrass\n"], ids=["numbers", "names"])
def test_masks_without_a_background_are_noted(
    names: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "head_channels": 16, "test_size": (64, 96)}
    weights, data = tmp_path / "seg.safetensors", tmp_path / "data"
    save_weights(weights, build("deeplab_r18_dcn", ("a", "b"), **options), "deeplab_r18_dcn", options)
    make_index_masks(data, beside=False)
    if names is not None:
        (data / "classes.txt").write_text(names)
    words = [str(weights), "--recipe", "synthetic_segmentation", "data.format=masks", f"data.root={data}"]
    words += ["data.options=", "data.test=all", "transforms.short=64", "transforms.long=96", "--device", "cpu"]
    assert main(["analyze", "effective-dilation", *words]) == 0
    assert ("no class is called background" in capsys.readouterr().out) == (names is None)


@pytest.mark.parametrize("source", ["weights", "name"])
def test_costs_stand_beside_the_plain_form(source: str, folder: Path, tmp_path: Path) -> None:
    report, figure = tmp_path / "a.json", tmp_path / "a.png"
    what = "deeplab_r18_dcn" if source == "name" else str(folder)
    words = ["--size", "64x64", "--repetitions", "1", "--device", "cpu", "--json", str(report), "--figure", str(figure)]
    assert main(["analyze", "complexity", what, *words]) == 0
    deformable, plain = json.loads(report.read_text())["models"]
    assert deformable["name"].startswith(plain["name"])
    assert deformable["parameters"] > plain["parameters"] > 0
    assert deformable["multiply_adds"] > plain["multiply_adds"] > 0
    for row in (deformable, plain):
        assert 0 < row["forward"] <= row["runtime"]
        assert row["low"] <= row["runtime"] <= row["high"]
    assert figure.is_file()
    if source == "weights":
        own = count_parameters(read_model(folder))
        assert deformable["parameters"] == own
