from __future__ import annotations

from pathlib import Path

import pytest

from dcn.engine.folder import latest_run, new_run_folder


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
