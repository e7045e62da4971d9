from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dcn.engine.atomic import link, remove_temporaries, write_atomically


def test_a_full_disk_is_named_with_the_file_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights" / "last.safetensors"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"last.safetensors: the file could not be written: No space left .* MiB"):
        write_atomically(path, b"new")
    assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]
    assert path.read_bytes() == b"old"


def test_an_interrupt_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new", memoryview(b"er"))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"old"}


def test_a_second_name_replaces_what_stood_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    for _ in range(2):
        link(tmp_path / "a", tmp_path / "b")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"a", "b": b"a"}


def test_a_file_system_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"a")
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"a"


def test_only_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for name in (".trainer.pt.123.tmp", ".hidden", "notes.tmp", ".notes.tmp", ".lock"):
        (tmp_path / name).touch()
    assert [path.name for path in remove_temporaries(tmp_path)] == [".trainer.pt.123.tmp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".lock", ".notes.tmp", "notes.tmp"]
