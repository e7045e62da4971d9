"""Training, evaluation and loading from Python: the same as on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import dcn
from dcn.cli.main import main
from dcn.data import open_dataset
from dcn.engine import load_recipe, read_weights
from tests.runs.small import RECIPE, picture, write_photos

LETTERS: dict[str, Any] = {
    "data.format": "voc",
    "data.options": {},
    "data.classes": list(open_dataset("synthetic", None, "val", length=1).classes),
}
"""Changes for the data that `dcn data write` writes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training through the command line, and the same from Python."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "tiny.yaml").write_text(RECIPE)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(os, "fsync", lambda _: None)  # as in tests/engine
    recipe = str(folder / "tiny.yaml")
    words = ["schedule.lr=0.01", "data.options.length=5", "seed=2"]
    assert main(["train", recipe, *words, "--output", str(folder), "--name", "cli", "--device", "cpu"]) == 0
    dcn.train(
        recipe,
        {"options": {"length": 5}},
        output=folder,
        name="python",
        device="cpu",
        schedule={"lr": 0.01},
        seed=2,
    )
    monkeypatch.undo()
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> dcn.Run:
    return dcn.Run(folder / "tiny" / "python")


def test_python_trains_what_the_command_line_trains(folder: Path, run: dcn.Run) -> None:
    other = dcn.Run(folder / "tiny" / "cli")
    assert run.recipe == other.recipe
    assert (run.recipe.schedule.lr, run.recipe.seed, run.recipe.data.options["length"]) == (0.01, 2, 5)
    state, _ = read_weights(run.best())
    expected, _ = read_weights(other.best())
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert _untimed(run) == _untimed(other)


def _untimed(run: dcn.Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in run.history]


def test_a_run_says_what_it_holds(run: dcn.Run) -> None:
    assert (run.step, run.finished) == (2, None)
    assert [row["kind"] for row in run.history] == ["train", "train", "eval"]
    assert run.metrics == {key: value for key, value in run.history[-1].items() if key not in ("kind", "step")}
    assert "AP50" in run.metrics
    assert run.best() == run.folder / "weights" / "best.safetensors"
    predictor = run.load(device="cpu")
    assert predictor.classes == read_weights(run.best())[1].classes
    assert len(predictor.predict(picture(), min_score=0.0)) > 0
    assert os.fspath(run) == str(run.folder)


def test_python_evaluates_what_the_command_line_evaluates(run: dcn.Run, capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"tta": {"flip": True}, "eval.batch_size": 2}
    metrics = dcn.evaluate(run, split="val", device="cpu", **changes)
    assert metrics is not None
    words = ["--split", "val", "--device", "cpu", "tta.flip=true", "--batch", "2"]
    assert main(["eval", str(run.folder), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == metrics.to_dict()
    assert main(["eval", str(run.folder), *words]) == 0
    assert capsys.readouterr().out.strip() == str(metrics)
    assert json.loads((run.folder / "eval" / "val.json").read_text()) == metrics.to_dict()
    assert metrics["AP50"] == metrics.to_dict()["AP50"]


def test_python_predicts_what_the_command_line_predicts(run: dcn.Run, tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path, "a.png")
    words = ["--score", "0", "--no-pictures", "--device", "cpu", "tta.flip=true"]
    assert main(["predict", str(run.folder), str(photo), "--output", str(tmp_path / "out"), *words]) == 0
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())["annotations"]
    detections = dcn.load(run, device="cpu", tta=dcn.TTA(flip=True)).predict(photo, min_score=0.0)
    assert [row["score"] for row in rows] == pytest.approx(detections.scores.tolist(), abs=1e-6)


def test_a_run_is_resumed_from_python(folder: Path, run: dcn.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    recipe = folder / "tiny.yaml"
    begun = dcn.train(recipe, output=folder / "resumed", device="cpu", schedule={"steps": 1})
    assert begun.finished
    more = dcn.train(recipe, output=folder / "resumed", resume=True, device="cpu", schedule={"steps": 2})
    assert more.folder.samefile(begun.folder)
    assert (more.step, more.finished) == (2, True)


def test_the_options_of_a_recipe_hold_in_every_verb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``tta`` of the recipe: evaluation, prediction and `dcn.load` take it; ``tta=TTA()`` is one pass."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    run = dcn.train(folder / "tiny.yaml", output=folder, name="flipped", device="cpu", tta={"flip": True})
    assert run.load(device="cpu").tta == dcn.TTA(flip=True)
    assert run.load(device="cpu", tta=dcn.TTA()).tta == dcn.TTA()
    assert dcn.load(run.best(), device="cpu").tta == dcn.TTA(flip=True)


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".", ""])
def test_a_name_stays_in_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name: expected the name of a folder"):
        dcn.train(folder / "tiny.yaml", output=tmp_path / "out", name=name, device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.root": "/no/such", "data.format": "voc", "data.options": {}}, "data.root: expected a folder, got"),
        (
            {"model.name": "deeplab_r18", "model.options": {}, "model.backbone_weights": "random"},
            "eval.metric: expected miou .*, got voc",
        ),
        ({"eval.metric": "miou"}, "eval.metric: expected coco or voc .*, got miou"),
        ({"eval.best": "AP55"}, "eval.best"),
        ({"model.weights": "/no/such"}, "model.weights: expected a file, .*, got '/no/such'"),
        ({"data.classes": ["x"]}, "data.classes: expected the classes of"),
        ({"tta.window": [64, 64], "tta.overlap": 16}, "tta: expected options of detectors, got 'window'"),
    ],
    ids=["root", "model", "metric", "best", "weights", "classes", "tta"],
)
def test_a_failed_start_leaves_no_folder(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcn.train(folder / "tiny.yaml", output=tmp_path / "out", device="cpu", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "recipe: expected a recipe, got None"),
        ({"resume": "/no/such"}, "resume: expected a run folder, got /no/such"),
        ({"resume": True}, "resume: expected a run folder or the name of a recipe"),
        ({"recipe": "synthetic_plian"}, "did you mean 'synthetic_plain'"),
    ],
    ids=["nothing", "resume", "latest", "typo"],
)
def test_a_wrong_call_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcn.train(**arguments)


def test_weights_of_a_run_start_another(folder: Path, run: dcn.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    other = dcn.train(
        folder / "tiny.yaml", output=folder, name="tuned", device="cpu", model={"weights": run}, schedule={"lr": 1e-12}
    )
    state, _ = read_weights(other.best())
    expected, _ = read_weights(run.best())
    name = "roi_head.bbox_head.fc_cls.weight"
    torch.testing.assert_close(state[name], expected[name], rtol=0, atol=1e-6)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder: expected a run folder, got .* has no recipe\.yaml"):
        dcn.Run(tmp_path)


def test_evaluation_from_another_directory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data given by a relative path when the run was started."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    for split in ("train", "val"):
        words = ["data", "write", "letters", "--split", split, "--length", "2"]
        assert main(words) == 0
    changes: dict[str, Any] = {**LETTERS, "data.test": "val"}
    run = dcn.train(folder / "tiny.yaml", "letters", output="runs", device="cpu", **changes)
    expected = dcn.evaluate(run, device="cpu")
    recorded = Path.cwd() / run.folder
    monkeypatch.chdir(tmp_path)
    metrics = dcn.evaluate(recorded, device="cpu")
    assert metrics is not None
    assert expected is not None
    assert metrics.to_dict() == expected.to_dict()


def test_training_images_are_not_evaluated_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    assert main(["data", "write", str(tmp_path / "letters"), "--split", "train", "--length", "2"]) == 0
    changes: dict[str, Any] = {**LETTERS, "data.val": "train"}
    with pytest.raises(ValueError, match=r"expected images outside of the training data .*, got 2 of 2 in "):
        dcn.train(folder / "tiny.yaml", tmp_path / "letters", output=tmp_path / "out", device="cpu", **changes)
    assert not (tmp_path / "out").exists()
    allowed = {**changes, "data.allow_shared": True}
    run = dcn.train(folder / "tiny.yaml", tmp_path / "letters", output=tmp_path / "out", device="cpu", **allowed)
    assert load_recipe(run.folder / "recipe.yaml").data.allow_shared


def test_start_and_end_say_what_runs(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "dcn"):
        run = dcn.train(folder / "tiny.yaml", output=tmp_path, device="cpu")
    text = " ".join(caplog.text.split())
    for said in (
        f"model {run.recipe.model.name}, ",
        "weights random",
        "device cpu",
        "4 images, 2 steps of 2 images",
        "validation synthetic:val, 2 images",
        "classes 3: ",
        f"best AP50={run.metrics['AP50']:.4f} (best.safetensors)",
        f"next dcn eval {run.folder}",
    ):
        assert said in text


def test_the_end_says_that_offsets_stayed_near_zero(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "dcn"):
        run = dcn.train(folder / "tiny.yaml", output=tmp_path, device="cpu")
    mean = run.history[1]["offsets/mean"]
    assert 0 < mean < 0.05
    assert f"offsets {mean:.2g} cells of the layers' input" in " ".join(caplog.text.split())
    assert "The offsets stayed near zero" in caplog.text
