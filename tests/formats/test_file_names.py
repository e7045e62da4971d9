from __future__ import annotations

from pathlib import Path

import pytest

from dcn.formats.file_names import SafeNames, files_in, image_files, image_of, resolve, safe_name, safe_path


@pytest.mark.parametrize("name", ["000012", "cam1/0001", "my photo 1", "IMG_1.2", "\u732b", "Stra\xdfe", 7], ids=str)
def test_ordinary_names_stay(name: int | str) -> None:
    assert safe_name(name) == str(name)


HOSTILE = {
    "../../evil": "evil",
    "/etc/passwd": "etc/passwd",
    "..\\..\\evil": "evil",
    "C:\\Windows\\a": "C_/Windows/a",
    "a/../../b": "a/b",
    "": "_",
    "..": "_",
    ".": "_",
    "///": "_",
    ".hidden": "_hidden",
    "a.": "a_",
    "con": "_con",
    "NUL.txt": "_NUL.txt",
    "a\0b\n": "a_b_",
    'a<b>:"|?*': "a_b______",
    "x" * 400: "x" * 120,
}


@pytest.mark.parametrize(("name", "expected"), HOSTILE.items(), ids=[repr(name)[:20] for name in HOSTILE])
def test_hostile_names_stay_inside(tmp_path: Path, name: str, expected: str) -> None:
    assert safe_name(name) == expected
    path = safe_path(tmp_path / "run", name, ".png")
    assert path.resolve().is_relative_to((tmp_path / "run").resolve())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")  # the file system takes it


def test_no_two_identifiers_share_a_name() -> None:
    names = SafeNames()
    given = ["a", "../a", "A", "a", "b/../a", "b/a"]
    assert [names(name) for name in given] == ["a", "a_2", "A_3", "a", "b/a", "b/a_2"]


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_hidden_files_are_not_listed(tmp_path: Path) -> None:
    _touch(tmp_path, "b.JPG", "a.Tiff", "._a.jpg", ".DS_Store", "x.txt", "sub/c.png", "__MACOSX/c.png", ".git/d.png")
    assert [path.name for path in image_files(tmp_path)] == ["a.Tiff", "b.JPG"]
    assert [path.name for path in image_files(tmp_path, below=True)] == ["a.Tiff", "b.JPG", "c.png"]
    assert files_in(tmp_path / "gone", ".txt") == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cam1/a.JPG", "cam1/a.JPG"),
        ("cam1\\a.JPG", "cam1/a.JPG"),
        ("cam1/a.jpg", "cam1/a.JPG"),
        ("cam1/b.jpg", None),
        ("cam1/a.png", None),
        ("x" * 5000, None),
        ("a\0b", None),
    ],
    ids=["same", "backslash", "letter-case", "other", "ending", "long", "zero"],
)
def test_files_that_annotations_mean(tmp_path: Path, name: str, expected: str | None) -> None:
    _touch(tmp_path, "cam1/a.JPG")
    assert resolve(tmp_path, name) == (None if expected is None else tmp_path / expected)


def test_a_backslash_in_a_real_name_comes_first(tmp_path: Path) -> None:
    _touch(tmp_path, "cam1\\a.jpg", "cam1/a.jpg")
    assert resolve(tmp_path, "cam1\\a.jpg") == tmp_path / "cam1\\a.jpg"


def test_image_of_a_stem(tmp_path: Path) -> None:
    _touch(tmp_path, "a.PNG", "b.Jpg", "c.xml", "d.tiff", "d.jpeg", "._e.jpg", "f.v2.jpg")
    images = {stem: image_of(tmp_path, stem) for stem in ("a", "b", "c", "d", "e", "f.v2")}
    assert {stem: path and path.name for stem, path in images.items()} == {
        "a": "a.PNG",
        "b": "b.Jpg",
        "c": None,
        "d": "d.jpeg",
        "e": None,
        "f.v2": "f.v2.jpg",
    }


def test_a_file_that_appears_later_is_seen(tmp_path: Path) -> None:
    assert image_of(tmp_path, "late") is None
    _touch(tmp_path, "late.PNG")
    assert image_of(tmp_path, "late") == tmp_path / "late.PNG"
