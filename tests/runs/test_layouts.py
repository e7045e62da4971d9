"""A folder of any tool to a training step, and the record of its split."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

import dcn
from tests.data.layouts import LAYOUTS, Made, items, make_index_masks
from tests.runs.small import RECIPE

STEP: dict[str, Any] = {"schedule.steps": 1, "eval.every": 1, "eval.pictures": 0, "eval.report": False, "device": "cpu"}


@pytest.fixture(autouse=True)
def _fast_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # as in tests/engine


def _train(folder: Path, options: str = "{}") -> dcn.Run:
    (folder / "tiny.yaml").write_text(RECIPE)
    data = {"format": "auto", "root": str(folder / "data")}
    return dcn.train(folder / "tiny.yaml", data, output=folder / "runs", changes=[f"data.options={options}"], **STEP)


@pytest.mark.parametrize("made", LAYOUTS.values(), ids=LAYOUTS)
def test_a_training_step(made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made.make(tmp_path / "data", items())
    with caplog.at_level(logging.INFO, "dcn"):
        run = _train(tmp_path)
    assert (run.step, run.finished) == (1, True)
    record = json.loads((run.folder / "splits.json").read_text())
    assert record["format"] == made.format
    assert f"taken for {made.format} ({record['layout']})" in caplog.text
    if {"train", "val"} <= set(made.roles):
        assert set(record["splits"]) == set(made.roles)
        assert "seed" not in record
    else:
        assert record["seed"] == 0
        assert "split made, as the folder has none: train " in caplog.text
        names = [name for part in record["splits"].values() for name in part]
        assert len(names) == len(set(names)) == (8 if "test" in made.roles else 12)


def test_resumed_training_keeps_its_split(tmp_path: Path) -> None:
    LAYOUTS["LabelImg"].make(tmp_path / "data", items())
    run = _train(tmp_path)
    again = dcn.train(resume=run, schedule={"steps": 2}, device="cpu")
    assert (again.folder, again.step) == (run.folder, 2)
    LAYOUTS["LabelImg"].make(tmp_path / "data", items(16)[12:])
    with pytest.raises(ValueError, match="are split in another way than when the run began"):
        dcn.train(resume=run, schedule={"steps": 3}, device="cpu")


def test_a_run_is_evaluated_on_its_split(tmp_path: Path) -> None:
    LAYOUTS["CVAT COCO"].make(tmp_path / "data", items())
    run = _train(tmp_path, "{split_seed: 4, val_share: 0.25}")
    record = json.loads((run.folder / "splits.json").read_text())
    assert record["seed"] == 4
    for split in ("val", "test"):
        dcn.evaluate(run, split=split, output=tmp_path / split, save=True, device="cpu")
        rows = json.loads(next((tmp_path / split).rglob("*_detections.json")).read_text())
        images = json.loads((tmp_path / "data" / "annotations" / "instances_default.json").read_text())["images"]
        names = {image["id"]: f"images/{image['file_name']}" for image in images}
        assert {names[row["image_id"]] for row in rows} <= set(record["splits"][split])
        assert {row["category_id"] for row in rows} <= {1, 2, 3}


def test_a_folder_that_is_nothing(tmp_path: Path) -> None:
    make_index_masks(tmp_path / "data", beside=False)
    (tmp_path / "data" / "masks").rename(tmp_path / "data" / "other")
    with pytest.raises(ValueError, match=r"cannot tell the format: .*Expected ImageSets"):
        _train(tmp_path)
    assert not (tmp_path / "runs").exists()
