from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dcn.engine.folder import check_run_name, latest_run, new_run_folder, open_run
from dcn.engine.lock import LOCK_FILE
from dcn.engine.recipe import dump_recipe, load_recipe
from tests.engine.tiny import recipe


def test_run_folders_are_numbered_and_names_are_kept(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path, "r").name == "0"
    assert new_run_folder(tmp_path, "r", "mine") == tmp_path / "r" / "mine"
    (tmp_path / "r" / "7").mkdir()
    assert new_run_folder(tmp_path, "r").name == "8"
    with pytest.raises(ValueError, match=r"expected a new one, got .* exists; choose another name or continue it"):
        new_run_folder(tmp_path, "r", "mine")


def test_the_latest_run(tmp_path: Path) -> None:
    for number, time in enumerate((100, 300, 200)):
        folder = new_run_folder(tmp_path, "r")
        (folder / "recipe.yaml").write_text("")
        os.utime(folder / "recipe.yaml", (time, time))
        assert folder.name == str(number)
    assert latest_run(tmp_path / "r").name == "1"
    with pytest.raises(ValueError, match=r"expected a run in .*, got none"):
        latest_run(tmp_path / "other")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "", "/tmp/x", "a\\b"])
def test_a_name_cannot_lead_out_of_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    for check in (check_run_name, new_run_folder):
        with pytest.raises(ValueError, match="name: expected the name of a folder without slashes"):
            check(tmp_path / "runs", "r", name)
    assert list(tmp_path.iterdir()) == []


def test_starts_at_the_same_time_get_folders_of_their_own(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(new_run_folder(tmp_path, "r"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(path.name) for path in made) == list(range(16))


def test_a_start_writes_recipe_and_versions_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe()))
    settings = load_recipe("r.yaml", ["data.root=data"])
    with open_run(tmp_path, settings):
        assert (tmp_path / LOCK_FILE).is_file()
    (tmp_path / "trainer.pt").touch()
    written = load_recipe(tmp_path / "recipe.yaml")
    assert written == replace(settings, data=replace(settings.data, root=str(tmp_path / "data")))
    assert json.loads((tmp_path / "versions.json").read_text())["threads"] >= 1
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in ("recipe.yaml", "versions.json")}
    with open_run(tmp_path, written):
        pass
    assert before == {name: (tmp_path / name).stat().st_mtime_ns for name in before}
    with open_run(tmp_path, replace(written, seed=5)):
        pass
    assert load_recipe(tmp_path / "recipe.yaml").seed == 5
    assert (tmp_path / "versions.json").stat().st_mtime_ns == before["versions.json"]


def _fail(*paths: Path, content: str = "") -> None:
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    raise KeyError


def test_a_failed_start_leaves_no_folder(tmp_path: Path) -> None:
    folder = new_run_folder(tmp_path, "r")
    with pytest.raises(KeyError), open_run(folder, recipe()):
        _fail(folder / "metrics.jsonl", folder / "tensorboard" / "events.out.tfevents.1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", ["trainer.pt", "pictures/0.jpg", "notes.txt"])
def test_a_folder_that_holds_anything_else_is_kept(tmp_path: Path, kept: str) -> None:
    folder = new_run_folder(tmp_path, "r")
    with pytest.raises(KeyError), open_run(folder, recipe()):
        _fail(folder / kept)
    assert (folder / kept).is_file()


def test_a_folder_with_rows_or_of_an_earlier_run_is_kept(tmp_path: Path) -> None:
    folder = new_run_folder(tmp_path, "r")
    with pytest.raises(KeyError), open_run(folder, recipe()):
        _fail(folder / "metrics.jsonl", content='{"kind": "train", "step": 1}\n')
    with open_run(folder, recipe()):
        pass
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(KeyError), open_run(folder, recipe()):
        _fail()
    assert (folder / "recipe.yaml").is_file()


def test_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    left = [tmp_path / ".trainer.pt.77.tmp", tmp_path / "weights" / ".step_00000001.safetensors.77.tmp"]
    for path in left:
        path.touch()
    with open_run(tmp_path, recipe()):
        assert not any(path.exists() for path in left)
