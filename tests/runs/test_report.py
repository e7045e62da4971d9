"""``dcn report`` and ``dcn compare`` on runs that were trained for a moment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import dcn
from dcn.cli.main import main
from dcn.runs.compare import _compared_detections
from dcn.runs.report import CollectedDetections, report
from dcn.structures import Detections, Target
from tests.report.tables import Tables, number

TINY: dict[str, Any] = {
    "schedule": {"epochs": None, "steps": 2, "batch_size": 2, "milestones": [], "warmup": {"steps": 0}},
    "eval": {"every": 2, "images": None, "pictures": 0, "report": False},
    "transforms": {"short": [64], "long": 64},
    "workers": 0,
    "log_every": 1,
}
DATA: dict[str, Any] = {"length": 6, "size": [64, 64], "glyph_size": [20, 30]}
MODEL: dict[str, Any] = {"options": {"width": 0.125, "stem_channels": 8, "fpn_channels": 16, "fc_channels": 16}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seeds of a plain and of a deformable detector, and two segmentation models."""
    folder = tmp_path_factory.mktemp("runs")
    actual = {}
    for kind in ("plain", "deformable"):
        for seed in (0, 1):
            options = {"options": DATA}
            run = dcn.train(
                f"synthetic_{kind}",
                options,
                output=folder,
                name=str(seed),
                seed=seed,
                model=MODEL,
                **TINY,
            )
            actual[f"{kind}{seed}"] = run.folder
    for seed in (0, 1):
        options = {"options": {**DATA, "semantic": True}}
        model = {"options": {"width": 0.125, "stem_channels": 8, "head_channels": 16}}
        run = dcn.train(
            "synthetic_segmentation", options, output=folder, name=str(seed), seed=seed, model=model, **TINY
        )
        actual[f"segmentation{seed}"] = run.folder
    return actual


@pytest.mark.parametrize("name", ["deformable0", "segmentation0"])
def test_a_run_gets_its_page(runs: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs[name])]) == 0
    page = runs[name] / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text(encoding="utf-8")
    metrics: Any = dcn.evaluate(runs[name], split="val")
    headings = ["Result", "Training", "Classes", "Kinds of error", *(["Calibration"] if name == "deformable0" else [])]
    headings += ["Images", "Worst images", "Offsets", "Data", "Origin", "Recipe"]
    assert Tables(page).headings == headings
    for word in ("seed", "torch", "dcn eval", "steps: 2"):
        assert word in text
    key, shown = ("accuracy", "pixel accuracy") if name == "segmentation0" else ("AP50", "AP50")
    assert number(Tables(page).tiles[shown]) == pytest.approx(metrics[key], abs=5.1e-4)


def test_training_ends_with_the_page(runs: dict[str, Path], tmp_path: Path) -> None:
    """Of the best weights, over the images that were evaluated during training."""
    assert not any((run / "eval" / "val_report.html").exists() for run in runs.values())
    recipe = dcn.Run(runs["segmentation0"]).recipe
    run = dcn.train(recipe, output=tmp_path, eval={"report": True, "images": 3})
    page = Tables(run.folder / "report.html")
    assert page.tiles["images"] == "3"
    assert number(page.tiles["pixel accuracy"]) == pytest.approx(run.metrics["accuracy"], abs=5.1e-4)


def test_a_report_that_fails_does_not_undo_the_training(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("the disk is full of dust")

    monkeypatch.setattr("dcn.runs.train.report", fail)
    recipe = dcn.Run(runs["segmentation0"]).recipe
    with caplog.at_level("WARNING", logger="dcn"):
        run = dcn.train(recipe, output=tmp_path, eval={"report": True})
    assert run.finished
    assert "the disk is full of dust; dcn report " in caplog.text


def test_an_evaluation_writes_the_page_too(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = runs["segmentation0"]
    with caplog.at_level("INFO", logger="dcn"):
        assert main(["eval", str(run), "--split", "val", "--report", "--output", str(tmp_path)]) == 0
    dcn.Run(run).report("val", output=tmp_path / "same.html")
    ours, theirs = Tables(tmp_path / "val_report.html"), Tables(tmp_path / "same.html")
    assert ours.tiles == theirs.tiles
    assert ours.tables == theirs.tables
    assert f"written into {tmp_path}" in caplog.text


def test_a_page_about_a_model_of_the_package_has_its_name(tmp_path: Path) -> None:
    command = ["eval", "letters_segmentation", "data.options.length=1", "--report", "--output", str(tmp_path)]
    assert main(command) == 0
    assert "<title>Run letters_segmentation" in (tmp_path / "test_report.html").read_text(encoding="utf-8")


def test_a_predictor_is_reported_with_a_recipe(runs: dict[str, Path], tmp_path: Path) -> None:
    predictor = dcn.Run(runs["deformable0"]).load()
    with pytest.raises(ValueError, match="recipe: a predictor brings no data"):
        report(predictor, output=tmp_path / "page.html")
    page = report(predictor, recipe=runs["deformable0"] / "recipe.yaml", output=tmp_path / "page.html")
    assert Tables(page).tiles["images"] == "6"
    same = dcn.compare([predictor, runs["deformable0"]], "val", recipe=runs["deformable0"], resamples=5)  # its recipe
    assert same.pairs[0].comparison.metrics["AP50"].value == pytest.approx(0, abs=1e-9)


def test_masks_have_a_column_of_their_own(tmp_path: Path) -> None:
    options = {**MODEL["options"], "norm": "train", "frozen_stages": 0}
    words = {**TINY, "transforms": {"short": [64], "long": 64, "flip": 0.0}}
    model = {"name": "mask_rcnn_r18_fpn", "options": options}
    run = dcn.train("synthetic_plain", {"options": DATA}, output=tmp_path, model=model, **words)
    page = Tables(run.report())
    assert set(page.table("AP and AR")["AP"]) == {"boxes", "masks", "measured over"}
    metrics: Any = dcn.evaluate(run, split="val", eval={"metric": "coco"})
    for kind, value in (("boxes", metrics["AP50"]), ("masks", metrics.masks.ap50)):
        assert number(page.table("AP and AR")["AP50"][kind]) == pytest.approx(value, abs=5.1e-4)


def test_a_run_compared_with_its_copy_shows_no_difference(runs: dict[str, Path], tmp_path: Path) -> None:
    page, copy = tmp_path / "page.html", tmp_path / "copy" / "0"
    shutil.copytree(runs["plain0"], copy)
    actual = dcn.compare([runs["plain0"], copy], "val", output=page, resamples=50)
    for difference in actual.pairs[0].comparison.metrics.values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert "no difference is shown" in page.read_text(encoding="utf-8")
    assert f"dcn compare {runs['plain0']} {copy} --split val --resamples 50" in page.read_text(encoding="utf-8")


def test_masks_are_compared_beside_boxes() -> None:
    """The same boxes in both; the masks of the second fill half of them."""
    box = torch.tensor([[4.0, 4, 12, 12]])
    whole = torch.zeros(1, 16, 16, dtype=torch.bool)
    whole[:, 4:12, 4:12] = True
    half = whole.clone()
    half[:, 4:8] = False
    first, second = CollectedDetections(["cat"]), CollectedDetections(["cat"])
    for collector, masks in ((first, whole), (second, half)):
        found = Detections(box, torch.tensor([0.9]), torch.tensor([0]), masks)
        collector.add([found] * 3, [Target(box, torch.tensor([0]), (16, 16), whole)] * 3)
    metrics = _compared_detections(first, second, ["a", "b", "c"], 20).metrics
    assert list(metrics) == ["AP", "AP50", "AP75", "mask/AP", "mask/AP50", "mask/AP75"]
    assert metrics["AP"].value == 0
    assert metrics["mask/AP75"].value == pytest.approx(-1)


def test_segmentation_models_are_compared(runs: dict[str, Path]) -> None:
    actual = dcn.compare([runs["segmentation0"], runs["segmentation1"]], "val", resamples=50)
    miou = actual.pairs[0].comparison.metrics["mIoU"]
    assert miou.low <= miou.value <= miou.high
    expected: Any = dcn.evaluate(runs["segmentation0"], split="val")
    assert miou.first == pytest.approx(expected["mIoU"], abs=1e-6)


def test_seeds_of_two_recipes_are_paired(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    names = ["deformable1", "plain0", "plain1", "deformable0"]
    words = [str(runs[name]) for name in names]
    assert main(["compare", *words, "--split", "val", "--resamples", "20"]) == 0
    text = capsys.readouterr().out
    assert "synthetic_deformable/0 -> synthetic_plain/0" in text
    assert "synthetic_deformable/1 -> synthetic_plain/1" in text
    assert "over 2 seeds: AP " in text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(["plain0"], "expected two or more run folders, got 1", id="one"),
        pytest.param(["plain0", "plain1", "plain0"], "expected different runs, got .* twice", id="twice"),
        pytest.param(["plain0", "segmentation0"], "expected one task", id="tasks"),
        pytest.param(["plain0", "plain1", "deformable0"], r"expected the same seeds .* \[0, 1\] and \[0\]", id="seeds"),
    ],
)
def test_runs_that_do_not_compare_are_refused(runs: dict[str, Path], names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcn.compare([runs[name] for name in names], "val", resamples=5)
