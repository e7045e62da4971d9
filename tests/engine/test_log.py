from __future__ import annotations

import math
from pathlib import Path

import pytest

from dcn.engine.log import RunLog, duration, latest_run, new_run_folder, read_rows


def test_run_folders_are_numbered_and_names_are_kept(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path, "r").name == "0"
    assert new_run_folder(tmp_path, "r", "mine") == tmp_path / "r" / "mine"
    (tmp_path / "r" / "7").mkdir()
    assert new_run_folder(tmp_path, "r").name == "8"
    with pytest.raises(ValueError, match="exists; choose another name or continue it"):
        new_run_folder(tmp_path, "r", "mine")


def test_the_latest_run(tmp_path: Path) -> None:
    import os

    for number, time in enumerate((100, 300, 200)):
        folder = new_run_folder(tmp_path, "r")
        (folder / "recipe.yaml").write_text("")
        os.utime(folder / "recipe.yaml", (time, time))
        assert folder.name == str(number)
    assert latest_run(tmp_path / "r").name == "1"
    with pytest.raises(ValueError, match="no run in"):
        latest_run(tmp_path / "other")


def test_rows_after_the_saved_step_are_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": step / 2, "bad": math.nan})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    log = RunLog(tmp_path, start=2)
    log.write("train", 3, {"loss": 9.0})
    log.close()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert rows[0]["bad"] is None


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (61, "0:01:01"), (36061, "10:01:01")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
