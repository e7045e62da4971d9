"""What words mean: files, folders with their loops, patterns, URLs, cameras, and the lines of standard input."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dcn.extras import MissingPackageError
from dcn.formats.video import BrokenVideoError
from dcn.runs.find_inputs import find_images, find_inputs, inputs_of
from dcn.runs.inputs import Frames
from dcn.runs.outputs import MANIFEST
from tests.made_videos import write_video
from tests.runs.small import picture, write_photos
from tests.web import served


def names(images: Any, **options: Any) -> list[str]:
    return [one.source.name for one in inputs_of(images, **options)]


def test_files_folders_and_globs_each_once(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "note.txt"):
        (tmp_path / name).touch()
    words = [str(tmp_path / "note.txt"), str(tmp_path), str(tmp_path / "*.png"), f"{tmp_path}/../{tmp_path.name}/b.png"]
    assert [path.name for path in find_images(words)] == ["note.txt", "a.JPG", "b.png"]
    assert [source.stem for source in find_inputs(words).sources] == ["note", "a", "b"]


@pytest.mark.parametrize("word", ["", "nothing/*.jpg", "none.mp4"], ids=["folder-without-images", "glob", "file"])
def test_nothing_found_is_an_error(tmp_path: Path, word: str) -> None:
    for find in (find_images, find_inputs):
        with pytest.raises(ValueError, match=r"images: expected .*, got none at"):
            find([str(tmp_path / word)])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (Frames(every=5), r"got every=5 with 2 images \(.*a\.png, .*b\.png\); leave it out"),
        (Frames(most=3), r"got frames=3 with 2 images"),
        (Frames(2, 3), r"got every=2 and frames=3 with 2 images .*; leave them out"),
    ],
    ids=["every", "frames", "both"],
)
def test_frames_of_images_alone_are_refused(tmp_path: Path, frames: Frames, message: str) -> None:
    write_photos(tmp_path, "a.png", "b.png")
    with pytest.raises(ValueError, match=f"every, frames: expected a video or camera to take frames of, {message}"):
        find_inputs([str(tmp_path)], frames=frames)
    with pytest.raises(ValueError, match=r"expected a video or camera to take frames of, .* with 1 image"):
        inputs_of(picture(), frames=frames)
    with pytest.raises(ValueError, match=r"expected a video or camera to take frames of, .* with 2 images"):
        inputs_of([picture(), picture()], frames=frames)
    clip = write_video(tmp_path / "clip.mp4")
    assert len(find_inputs([str(tmp_path), str(clip)], frames=frames).sources) == 3
    assert find_inputs(["-"], frames=frames).sources  # a list may name a video


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Folders in folders with links that lead back, up and to a folder elsewhere, hidden ones, and own results."""
    top = tmp_path / "top"
    for folder in ("", "b", "b/c", ".hidden", "__MACOSX", "results"):
        write_photos(top / folder, "one.png")
    write_photos(tmp_path / "elsewhere", "far.png")
    (top / "results" / MANIFEST).touch()
    (top / "b" / "loop").symlink_to(top)
    (top / "b" / "c" / "itself").symlink_to(".")
    (top / "a_link").symlink_to(tmp_path / "elsewhere")
    (top / "broken").symlink_to(tmp_path / "gone")
    return top


def test_recursive_visits_every_folder_once(tree: Path) -> None:
    actual = [path.relative_to(tree).as_posix() for path in find_images([str(tree)], recursive=True)]
    assert actual == ["one.png", "a_link/far.png", "b/one.png", "b/c/one.png"]
    assert [path.name for path in find_images([str(tree)])] == ["one.png"]


@pytest.mark.parametrize("pattern", ["**/*.png", "**", "b/../**/*.png", "**/b/../*.png"])
def test_a_pattern_visits_every_folder_once(tree: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two links that lead back: `glob` alone would go round 2 ** 40 ways."""
    (tree / "b" / "again").symlink_to(tree)
    (tree / "broken").unlink()
    monkeypatch.chdir(tree)
    actual = sorted(os.path.realpath(path) for path in find_images([pattern]))
    found = ["../elsewhere/far.png", "b/c/one.png", "b/one.png", "one.png"]
    assert actual == ([str(tree / "one.png")] if "/b/" in pattern else [os.path.realpath(tree / one) for one in found])


def test_a_folder_of_folders_says_what_helps(tree: Path) -> None:
    (tree / "one.png").unlink()
    with pytest.raises(ValueError, match=r"got none at .*; a pattern such as .*, looks below"):
        find_images([str(tree)])


def test_a_folder_of_videos_says_what_helps(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=r'for its videos give a pattern: ".*/\*\.mp4"$') as caught:
        find_inputs([str(tmp_path)])
    pattern = str(caught.value).split('"')[-2]
    assert [source.stem for source in find_inputs([pattern]).sources] == ["clip"]


def test_a_number_is_a_camera_unless_a_file_has_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BrokenVideoError, match="camera 96: /dev/video96 does not exist"):
        find_inputs(["96"])
    write_photos(tmp_path, "a.png")[0].rename("96")
    assert names("96") == ["96"]


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="expected a file, got a pipe or a device at"):
        find_inputs([str(tmp_path / "pipe.png")])
    write_photos(tmp_path, "a.png")
    assert [path.name for path in find_images([str(tmp_path)])] == ["a.png"]


def test_a_video_needs_its_package_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackageError, match=r'av: .* pip install "deformable-convnets\[video\]"'):
        find_inputs([str(path)])


@pytest.mark.parametrize(
    ("every", "most", "frames"), [(1, None, list(range(12))), (5, None, [0, 5, 10]), (2, 2, [0, 2])]
)
def test_frames_of_a_video(tmp_path: Path, every: int, most: int | None, frames: list[int]) -> None:
    inputs = find_inputs([str(write_video(tmp_path / "clip.mp4"))], frames=Frames(every, most))
    assert [one.frame for one in inputs] == frames
    assert inputs.skipped == 0


@pytest.mark.parametrize(("every", "most", "name"), [(0, None, "every"), (1, 0, "frames"), (-1, None, "every")])
def test_frames_below_one_are_refused(every: int, most: int | None, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected 1 or more, got"):
        Frames(every, most)


class Lines(io.RawIOBase):
    """Standard input whose lines arrive one by one; a function is called before each."""

    def __init__(self, lines: list[bytes], before: Callable[[int], None] = lambda _: None) -> None:
        self._lines, self._before, self._given = lines, before, 0

    def readline(self, size: int | None = -1) -> bytes:
        self._before(self._given)
        if self._given == len(self._lines):
            return b""
        line = self._lines[self._given]
        most = len(line) if size is None or size < 0 else size
        self._lines[self._given] = line[most:]
        self._given += len(line) <= most
        return line[:most]


def give(monkeypatch: pytest.MonkeyPatch, stream: object) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))


def test_lines_of_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    photos = write_photos(tmp_path / "photos", "a.png", "b [1].png", "c.png")
    odd = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    os.rename(photos[2], odd)
    (tmp_path / "bad.png").write_bytes(b"no image")
    lines = [
        *(b"\xef\xbb\xbf" + os.fsencode(photos[0]) + b"\r\n", b"\r\n", b"\n", b"  \n", b"/no/such.png\n"),
        *(
            odd + b"\n",
            os.fsencode(tmp_path / "bad.png") + b"\n",
            b"x" * 200_000 + b"\n",
            b"a\0b\n",
            b"/tmp/*.nothing\n",
        ),
        *(b"http://127.0.0.1:9\n", b"9\n", os.fsencode(photos[1])),
    ]
    give(monkeypatch, Lines(lines))
    monkeypatch.setattr("dcn.runs.download.time.sleep", lambda _: None)
    inputs = find_inputs(["-"])
    with caplog.at_level(logging.WARNING):
        actual = [one.source.name for one in inputs]
    assert actual == [str(photos[0]), os.fsdecode(odd), str(photos[1])]
    assert inputs.skipped == 7
    said = [record.getMessage() for record in caplog.records]
    expected = ("'/no/such.png'", "bad.png: the image cannot be decoded", "a line of 65,536 bytes or more", r"'a\x00b'")
    assert all(any(part in line for line in said) for part in expected)
    assert max(map(len, said)) < 300


def test_a_list_is_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is given before the next line is there."""
    photos = write_photos(tmp_path, "a.png", "b.png", "c.png")
    given: list[str] = []
    asked: list[tuple[int, int]] = []
    give(monkeypatch, Lines([f"{path}\n".encode() for path in photos], lambda line: asked.append((line, len(given)))))
    given.extend(one.source.name for one in find_inputs(["-"]))
    assert asked == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_a_list_may_name_folders_and_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / "photos" / "below", "a.png")
    clip = write_video(tmp_path / "clip.mp4")
    give(monkeypatch, Lines([f"{clip}\n".encode(), f"{tmp_path / 'photos'}\n".encode()]))
    actual = [one.source.stem for one in find_inputs(["-"], recursive=True, frames=Frames(most=2))]
    assert actual == ["clip", "clip", "a"]


def test_images_of_the_web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    (photo,) = write_photos(tmp_path, "a.png")
    video = write_video(tmp_path / "clip.mp4")
    monkeypatch.setattr("dcn.runs.images.MAX_DOWNLOAD", 1 << 20)
    files = {
        **{"/a.png": photo.read_bytes(), "/image.txt": photo.read_bytes(), "/moved": b"moved:/a.png"},
        **{"/page.jpg": b"\n<!DOCTYPE html><html><body>log in</body></html>", "/cut.png": photo.read_bytes()[:-900]},
        **{"/big.png": bytes((1 << 20) + 1), "/clip.jpg": video.read_bytes(), "/out": b"moved:ftp://127.0.0.1/a"},
        **{"/..%2F..%2F%00etc": photo.read_bytes(), "/empty.png": b""},
    }
    with served(files, endless="/endless.png") as root, caplog.at_level(logging.WARNING):
        words = [f"{root}{path}" for path in (*files, "/none.png", "/endless.png", "/a.png?size=1&x=2", "/ü .png")]
        inputs = find_inputs(words)
        good = {one.source.name.removeprefix(root): one for one in inputs}
    assert list(good) == ["/a.png", "/image.txt", "/moved", "/..%2F..%2F%00etc", "/a.png?size=1&x=2"]
    assert all(torch.equal(one.image, picture()) for one in good.values())
    assert [one.source.stem for one in good.values()] == ["a", "image", "moved", "_._.", "a"]
    said = "\n".join(record.getMessage() for record in caplog.records)
    for part in (
        "/page.jpg: expected an image, got a web page; give the URL of the image itself",
        "/cut.png: the image cannot be decoded",
        "/big.png: expected at most 1,048,576 bytes, got a file of 1,048,577",
        "/endless.png: expected at most 1,048,576 bytes, got more",
        "/clip.jpg: expected an image, got a video; download it and give the file",
        "/out: expected a redirect to an http or https URL, got ftp://127.0.0.1/a",
        "/empty.png: the image cannot be decoded",
        "/none.png: the server answers 404",
        "/ü .png: the server answers 404",
    ):
        assert part in said
    assert inputs.skipped == 9


def test_arrays_and_words_in_any_order(tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path, "a.png")
    array = picture(1).permute(1, 2, 0).numpy()
    assert names(array) == ["image 0"]
    assert names([str(photo), array]) == [str(photo), "image 1"]
    assert names(iter([picture(), photo, tmp_path / "none.png"])) == ["image 0", str(photo)]
    assert names([photo, photo]) == [str(photo)]


@pytest.mark.parametrize(
    "images", [3.5, None, [3.5], iter([None])], ids=["number", "none", "list of a number", "iterator"]
)
def test_other_things_are_refused(images: Any) -> None:
    with pytest.raises(ValueError, match="images: expected a path"):
        list(inputs_of(images))
