from __future__ import annotations

from pathlib import Path

import pytest

from dcn.runs.outputs import MANIFEST, OutputFolder, page_path, stems_of


@pytest.mark.parametrize(
    ("paths", "stems"),
    [
        (["a.jpg", "b.jpg"], ["a", "b"]),
        (["x/a.jpg", "y/a.png", "z/a.jpg"], ["a", "a_1", "a_2"]),
        (["x/a.jpg", "y/a.jpg", "y/a_1.jpg"], ["a", "a_2", "a_1"]),
        (["x/A.jpg", "y/a.jpg"], ["A", "a_1"]),
    ],
    ids=["plain", "folders", "taken", "letter-case"],
)
def test_stems_are_different(paths: list[str], stems: list[str]) -> None:
    assert stems_of([Path(path) for path in paths]) == stems


def test_a_folder_appears_with_its_first_file(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "new" / "out")
    folder.check(["a.txt"])
    assert not (tmp_path / "new").exists()
    folder.write_text("a.txt", "one")
    folder.write_text("a.txt", "two")
    assert (tmp_path / "new" / "out" / "a.txt").read_text() == "two"
    assert sorted(path.name for path in folder.folder.iterdir()) == [MANIFEST, "a.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="output: expected a folder, got the file"):
        OutputFolder(tmp_path / "out")


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.write_text("a.txt", "old")

    def fail(path: Path) -> None:
        path.write_text("half of the new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.write("a.txt", fail)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "a.txt"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(ValueError, match="this command did not write it"):
        OutputFolder(tmp_path / "out").write_text("a.txt", "new")
    (tmp_path / "out" / "b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(ValueError, match="this command did not write it"):
        OutputFolder(tmp_path / "out").write_text("b.txt", "new")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_lines_of_a_killed_command_may_be_replaced(tmp_path: Path) -> None:
    """A stream without a checksum was being written; a manifest that ends in the middle of a line is read."""
    first = OutputFolder(tmp_path)
    lines = first.lines("a.jsonl")
    add = lines.__enter__()
    add({"number": 1})
    with (tmp_path / MANIFEST).open("a") as file:
        file.write('{"file": "b.t')
    with OutputFolder(tmp_path).lines("a.jsonl") as again:
        again({"number": 2})
    assert (tmp_path / "a.jsonl").read_text() == '{"number": 2}\n'


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("new.html", "new.html"),
        ("new/page.HTM", "new/page.HTM"),
        ("new", "new/report.html"),
        ("there.d", "there.d/report.html"),
    ],
    ids=["a page", "a page in a new folder", "a new folder", "a folder with a point in its name"],
)
def test_a_page_goes_to_a_file_or_into_a_folder(tmp_path: Path, output: str, expected: str) -> None:
    (tmp_path / "there.d").mkdir()
    assert page_path(tmp_path / output, "report.html") == tmp_path / expected


@pytest.mark.parametrize(
    ("output", "message"),
    [("page.pdf", r"ends in \.html, or a folder"), ("file/page.html", "expected a folder, got the file")],
    ids=["another ending", "a folder that is a file"],
)
def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path, output: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message):
        page_path(tmp_path / output, "report.html")
