"""From a recipe to pictures on the embedded data: train, kill, resume, evaluate, predict, load."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import dcn
from dcn.cli.main import main
from dcn.data import open_dataset, write_image
from dcn.engine import load_recipe, read_weights
from dcn.structures import Detections

RECIPE = """\
base: synthetic_deformable
model:
  options: {width: 0.125, stem_channels: 8, fpn_channels: 16, fc_channels: 16, rois_per_image: 16,
            train_proposals: [50, 20], test_proposals: [20, 10], deform_stages: [c5], score_threshold: 0.0}
data: {options: {length: 6, size: [64, 64], num_classes: 3, glyph_size: [24, 38]}}
transforms: {short: [64], long: 64}
schedule: {epochs: null, steps: 4, batch_size: 2, lr_batch_size: null, milestones: []}
eval: {every: 2, metric: voc, images: 2, pictures: 1, report: false}
workers: 0
log_every: 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: whole; stopped after half of its steps; and that one continued."""
    folder = tmp_path_factory.mktemp("end_to_end")
    (folder / "tiny.yaml").write_text(RECIPE)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(os, "fsync", lambda _: None)  # as in tests/engine
    common = ["train", str(folder / "tiny.yaml"), "--output", str(folder), "--device", "cpu"]
    assert main([*common, "--name", "whole"]) == 0
    assert main([*common, "--name", "half", "schedule.steps=2"]) == 0
    assert main(["train", "--resume", str(folder / "tiny" / "half"), "--device", "cpu", "schedule.steps=4"]) == 0
    monkeypatch.undo()
    return folder / "tiny"


def _rows(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]


def test_a_real_detector_continues_bit_for_bit(folder: Path) -> None:
    whole, _ = read_weights(folder / "whole" / "weights" / "last.safetensors")
    half, _ = read_weights(folder / "half" / "weights" / "last.safetensors")
    assert whole.keys() == half.keys()
    assert all(torch.equal(whole[name], half[name]) for name in whole)
    assert _rows(folder / "whole") == _rows(folder / "half")


def test_the_run_folder_says_what_was_run(folder: Path) -> None:
    recipe = load_recipe(folder / "whole" / "recipe.yaml")
    assert (recipe.schedule.steps, recipe.model.options["deform_stages"]) == (4, ["c5"])
    assert json.loads((folder / "whole" / "versions.json").read_text())["torch"] == torch.__version__
    assert len(list((folder / "whole" / "pictures").glob("*.jpg"))) == 1
    _, info = read_weights(folder / "whole" / "weights" / "last.safetensors")
    assert info.options["test_size"] == [64, 64]


def test_eval_gives_the_metrics_of_its_own_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last validation, again by `dcn eval`, and once more from the result file it wrote."""
    run = folder / "whole"
    weights = run / "weights" / "last.safetensors"
    small = "data.options.length=2"
    assert main(["eval", str(weights), "--split", "val", "--save", "--json", "--device", "cpu", small]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == json.loads((run / "eval" / "val.json").read_text())
    rows = json.loads((run / "eval" / "val_detections.json").read_text())
    assert rows
    dataset = open_dataset("synthetic", None, "val", length=2, size=[64, 64], num_classes=3, glyph_size=[24, 38])
    actual = dcn.load(weights, device="cpu").predict([dataset[index].image for index in range(2)])
    assert len(rows) == sum(len(one) for one in actual)
    assert {row["category_id"] for row in rows} <= {1, 2, 3}
    assert len(list((run / "eval" / "val_voc").glob("*.txt"))) == 3


def test_predict_writes_pictures_and_json_and_reports_a_broken_image(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = open_dataset("synthetic", None, "test", length=2, size=[64, 80], num_classes=3, glyph_size=[14, 22])
    for index in range(2):
        write_image(tmp_path / f"{index}.png", dataset[index].image)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    output = tmp_path / "out"
    run = str(folder / "whole")
    command = [
        "predict",
        run,
        str(tmp_path),
        "--output",
        str(output),
        "--score",
        "0",
        "--batch",
        "2",
        "--device",
        "cpu",
    ]
    assert main(command) == 1
    assert "skipped: " in caplog.text
    assert "broken.jpg" in caplog.text
    names = sorted(path.name for path in output.iterdir() if path.name[0] != ".")
    assert names == ["0.jpg", "1.jpg", "detections.json", "detections.jsonl"]
    content = json.loads((output / "detections.json").read_text())
    assert [(i["height"], i["width"]) for i in content["images"]] == [(64, 80), (64, 80)]
    actual = dcn.load(run, device="cpu").predict(tmp_path / "0.png", min_score=0.0)
    first = [row["score"] for row in content["annotations"] if row["image_id"] == 1]
    assert first == pytest.approx(actual.scores.tolist(), abs=1e-6)


def test_load_gives_a_list_for_a_list_in_pixels_of_the_input(folder: Path) -> None:
    network = dcn.load(folder / "whole", device="cpu")
    image = open_dataset("synthetic", None, "test", length=1, size=[70, 130], num_classes=3, glyph_size=[14, 22])[
        0
    ].image
    whole = network.predict(image, min_score=0.0)
    actual = network.predict([image, image.permute(1, 2, 0).numpy()], min_score=0.0)
    assert isinstance(whole, Detections)
    assert all(torch.equal(one.boxes, whole.boxes) for one in actual)
    assert float(whole.boxes[:, 2].max()) <= 130
    assert float(whole.boxes[:, 3].max()) <= 70


def test_batches_and_precision_of_an_evaluation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def metrics(*words: str) -> dict[str, float]:
        assert main(["eval", str(folder / "whole"), "--device", "cpu", "--json", *words]) == 0
        actual: dict[str, float] = json.loads(capsys.readouterr().out)
        return actual

    alone = metrics("--batch", "1")
    assert metrics("--batch", "4") == pytest.approx(alone, abs=1e-6)
    assert metrics("--batch", "3", "--precision", "bfloat16").keys() == alone.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "eval.batch_size: expected a number of 1 or more, got 0"),
        (["--compile", "tta.flip=true"], "compile, cuda_graph: expected one pass for each image"),
    ],
    ids=["batch", "compile"],
)
def test_speed_options_that_do_not_fit(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(folder / "whole"), "--device", "cpu", *words]) == 2
    assert message in capsys.readouterr().err
