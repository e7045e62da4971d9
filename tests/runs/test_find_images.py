from __future__ import annotations

from pathlib import Path

import pytest

from dcn.runs.inputs import find_images


def test_files_folders_and_globs_each_once(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "note.txt"):
        (tmp_path / name).touch()
    actual = find_images([str(tmp_path / "note.txt"), str(tmp_path), str(tmp_path / "*.png")])
    assert [path.name for path in actual] == ["note.txt", "a.JPG", "b.png"]


@pytest.mark.parametrize("word", ["", "nothing/*.jpg"], ids=["folder-without-images", "glob"])
def test_nothing_found_is_an_error(tmp_path: Path, word: str) -> None:
    with pytest.raises(ValueError, match=r"images: expected .*, got none at"):
        find_images([str(tmp_path / word)])
