"""``dcn report`` and ``dcn compare`` on runs that were trained for a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dcn
from dcn.cli.main import main

TINY: dict[str, Any] = {
    "schedule": {"epochs": None, "steps": 2, "batch_size": 2, "milestones": [], "warmup": {"steps": 0}},
    "eval": {"every": 2, "images": None, "pictures": 0},
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
    headings = ["Result", "Training", "Classes", "Worst images", "Origin", "Recipe"]
    headings += ["Kinds of error", "Calibration"] if name == "deformable0" else ["Images"]
    for heading in headings:
        assert f">{heading}</h2>" in text
    for word in ("seed", "torch", "dcn eval", "steps: 2"):
        assert word in text
    if name == "segmentation0":
        assert f"{metrics['accuracy']:.3f}" in text


def test_a_run_compared_with_itself_shows_no_difference(runs: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    actual = dcn.compare([runs["plain0"], runs["plain0"]], "val", output=page, resamples=50)
    for difference in actual.pairs[0].comparison.metrics.values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert "no difference is shown" in page.read_text(encoding="utf-8")


def test_segmentation_models_are_compared(runs: dict[str, Path]) -> None:
    actual = dcn.compare([runs["segmentation0"], runs["segmentation1"]], "val", resamples=50)
    miou = actual.pairs[0].comparison.metrics["mIoU"]
    assert miou.low <= miou.value <= miou.high
    expected: Any = dcn.evaluate(runs["segmentation0"], split="val", eval={"absent": "skip"})
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
        pytest.param(["plain0", "segmentation0"], "expected one task", id="tasks"),
        pytest.param(["plain0", "plain1", "deformable0"], r"expected the same seeds .* \[0, 1\] and \[0\]", id="seeds"),
    ],
)
def test_runs_that_do_not_compare_are_refused(runs: dict[str, Path], names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcn.compare([runs[name] for name in names], "val", resamples=5)
