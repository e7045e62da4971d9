from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcn.engine import dump_recipe, load_recipe
from dcn.engine.config import Recipe
from dcn.runs.sources import as_words, find_source, read_recipe


def _changed(changes: dict[str, Any]) -> Recipe:
    return load_recipe("synthetic_plain", as_words(changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": {"lr": 0.01}}, ["schedule.lr=0.01"]),
        ({"schedule.lr": 1e-5}, ["schedule.lr=1e-05"]),
        (
            {"schedule": {"warmup": {"steps": 3}, "milestones": (2, 4)}},
            ["schedule.warmup.steps=3", "schedule.milestones=2,4"],
        ),
        ({"data.root": Path("a b"), "amp": "bf16"}, ["data.root=a b", "amp=bf16"]),
        ({"model": {"options": {"width": 0.25}}}, ["model.options.width=0.25"]),
        ({"schedule": {"lr_multipliers": {"*.conv.*": 0.1}}}, ["schedule.lr_multipliers={'*.conv.*': 0.1}"]),
        ({"eval": {"best": None, "images": np.int64(7)}}, ["eval.best=", "eval.images=7"]),
        ({"tta": {"flip": True, "scales": [(240, 400)]}}, ["tta.flip=true", "tta.scales=240x400"]),
        ({"model.weights": "on"}, ['model.weights="on"']),
    ],
    ids=["nested", "dotted", "deep", "texts", "options", "pattern", "none", "lists", "word"],
)
def test_changes_of_python_are_those_of_the_command_line(changes: dict[str, Any], words: list[str]) -> None:
    assert _changed(changes) == load_recipe("synthetic_plain", words)
    assert _changed(changes) != load_recipe("synthetic_plain")


def test_nested_changes_keep_what_they_do_not_name() -> None:
    before = load_recipe("synthetic_plain")
    after = _changed({"model": {"options": {"width": 0.25}}})
    assert after.model.options == {**before.model.options, "width": 0.25}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"lr": object()}}, "schedule.lr: expected a number, a text, a list or a dictionary of these"),
        ({"schedule": {"lr": float("nan")}}, "schedule.lr: expected a number"),
        ({"schedule": {"lrr": 1}}, "did you mean 'lr'"),
        ({"lr": 1}, "schedule.lr"),
    ],
    ids=["type", "nan", "typo", "section"],
)
def test_wrong_changes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _changed(changes)


def test_a_recipe_object_takes_changes() -> None:
    recipe = load_recipe("synthetic_plain")
    assert read_recipe(recipe, ["schedule.lr=0.5"]).schedule.lr == 0.5
    assert read_recipe(recipe) == recipe


def test_the_data_is_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old run names its data relative to where it was started: two folders above."""
    run = tmp_path / "project" / "runs" / "x" / "0"
    (tmp_path / "project" / "data").mkdir(parents=True)
    run.mkdir(parents=True)
    recipe = load_recipe("bccd_plain", ["data.root=data"])
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    monkeypatch.chdir(tmp_path)
    actual = read_recipe(run / "recipe.yaml", (), run).data.root
    assert actual is not None
    assert Path(actual).samefile(tmp_path / "project" / "data")
    (tmp_path / "data").mkdir()
    assert read_recipe(run / "recipe.yaml", (), run).data.root == "data"


def test_weights_in_a_run_folder_know_their_run(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "recipe.yaml").touch()
    for name in ("best", "last"):
        (tmp_path / "weights" / f"{name}.safetensors").touch()
    (tmp_path / "other.safetensors").touch()
    for path in (tmp_path, tmp_path / "weights" / "best.safetensors"):
        actual = find_source(path)
        assert actual is not None
        assert actual.weights == tmp_path / "weights" / "best.safetensors"
        assert actual.run is not None
        assert actual.run.samefile(tmp_path)
    alone = find_source(tmp_path / "other.safetensors")
    assert alone is not None
    assert alone.run is None
    assert find_source(tmp_path / "missing") is None
