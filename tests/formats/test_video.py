"""Videos against the frames they were made of, damaged and hostile files, and a camera that FFmpeg plays."""

from __future__ import annotations

import os
import random
import sys
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dcn.formats import video
from dcn.formats.video import BrokenVideoError, VideoWriter, container_of, is_video, read_camera, read_video
from tests.made_videos import HEIGHT, RATE, WIDTH, av, number_of, turned, write_video


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts"])
def test_frames_come_in_order_with_their_times(tmp_path: Path, suffix: str) -> None:
    frames = list(read_video(write_video(tmp_path / f"clip{suffix}")))
    assert [frame.index for frame in frames] == list(range(12))
    assert [number_of(frame.image) for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == pytest.approx([index / 10 for index in range(12)], abs=1e-3)
    assert {(*frame.image.shape, frame.rate) for frame in frames} == {(3, HEIGHT, WIDTH, RATE)}


def test_every_third_frame_keeps_its_number_and_time(tmp_path: Path) -> None:
    frames = list(read_video(write_video(tmp_path / "clip.mp4", rate=Fraction(30000, 1001)), every=3))
    assert [frame.index for frame in frames] == [number_of(frame.image) for frame in frames] == [0, 3, 6, 9]
    assert [frame.time for frame in frames] == pytest.approx([index * 1001 / 30000 for index in (0, 3, 6, 9)])


def test_a_name_says_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4").rename(tmp_path / "clip.dat")
    assert is_video(path)
    assert len(list(read_video(path))) == 12


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    """Clockwise: what was the bottom, the noise, comes to the left."""
    path = write_video(tmp_path / "clip.mp4", noise=True)
    plain, upright = next(read_video(path)).image, next(read_video(turned(path, tmp_path / "turned.mp4"))).image
    assert torch.equal(upright, torch.rot90(plain, -1, (1, 2)))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_cut_video_gives_what_is_there_and_says_so(tmp_path: Path, suffix: str) -> None:
    data = write_video(tmp_path / f"clip{suffix}", noise=True, options={"movflags": "faststart"}).read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) * 7 // 10])
    numbers: list[int] = []
    with pytest.raises(BrokenVideoError, match=rf"cut\{suffix}: the video is (damaged or )?incomplete"):
        numbers.extend(number_of(frame.image) for frame in read_video(tmp_path / f"cut{suffix}"))
    assert 3 <= len(numbers) < 12
    assert numbers == list(range(len(numbers)))


HOSTILE = {
    "no index": (lambda data: data[: len(data) * 6 // 10], "damaged or incomplete|without its index"),
    "text": (lambda _: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "a file of another kind"),
    "list": (lambda _: b"ffconcat version 1.0\nfile '/etc/passwd'\n", "a file of another kind"),
    "empty": (lambda _: b"", "a file of another kind"),
    "head alone": (lambda data: data[:40], "clip.mp4: "),
    "unknown codec": (lambda data: data.replace(b"avc1", b"zzzz"), "of a kind that this FFmpeg cannot decode"),
    "zeros": (lambda data: data[:32] + bytes(2000), "clip.mp4: "),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_no_video_is_one_clear_error(tmp_path: Path, case: str) -> None:
    change, message = HOSTILE[case]
    path = write_video(tmp_path / "clip.mp4", noise=True)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BrokenVideoError, match=message):
        list(read_video(path))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_wrong_bytes_give_frames_or_one_clear_error(tmp_path: Path, suffix: str) -> None:
    """Bytes, blocks and cuts at random places; 4,500 such files with other seeds raised nothing else."""
    whole, generator = write_video(tmp_path / f"whole{suffix}", noise=True).read_bytes(), random.Random(7)
    path, errors = tmp_path / f"clip{suffix}", []
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(generator.randrange(1, 30)):
            start, length = generator.randrange(len(data) // generator.choice((1, 10))), generator.choice((1, 1, 8, 40))
            data[start : start + length] = generator.choice((b"", b"\0" * length, b"\xff" * length))
        path.write_bytes(data)
        try:
            assert {frame.image.shape[0] for frame in read_video(path)} <= {3}
        except BrokenVideoError as error:
            errors.append(str(error))
    assert len(errors) > 10
    assert all(error.startswith(f"{path}: ") for error in errors)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(BrokenVideoError, match="expected a video, got a file without pictures"):
        list(read_video(tmp_path / "a.mkv"))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x00\x00\x00\x20ftypisom", "mov"),
        (b"\x00\x00\x00\x08wide", "mov"),
        (b"\x00\x00\x00\x20ftypheic", None),
        (b"\x00\x00\x00\x20ftypavif", None),
        (b"RIFF....AVI LIST", "avi"),
        (b"RIFF....WEBPVP8 ", None),
        (b"\xff\xd8\xff\xe0", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"", None),
    ],
)
def test_first_bytes_tell_the_container(head: bytes, name: str | None) -> None:
    assert container_of(head) == name


@pytest.mark.parametrize("size", [(48, 64), (47, 63)], ids=["even", "odd"])
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(5)], ids=str)
def test_a_written_video_keeps_rate_and_times(tmp_path: Path, size: tuple[int, int], rate: Fraction) -> None:
    height, width = size
    writer = VideoWriter(tmp_path / "out.mp4", size, rate)
    for index in range(10):
        writer.add(torch.full((3, height, width), 20 + 6 * index, dtype=torch.uint8), 7.0 + float(index / rate))
    writer.close()
    frames = list(read_video(tmp_path / "out.mp4"))
    assert [number_of(frame.image) for frame in frames] == list(range(10))
    assert [frame.time for frame in frames] == pytest.approx([float(index / rate) for index in range(10)], abs=1e-4)
    assert float(frames[0].rate) == pytest.approx(float(rate), rel=1e-4)
    assert tuple(frames[0].image.shape[1:]) == (48, 64)


def test_times_that_stand_still_do_not_break_the_file(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", (48, 64), Fraction(10))
    for time, side in ((0.0, 64), (0.1, 64), (0.1, 32), (0.05, 64)):
        writer.add(torch.full((3, 48, side), 128, dtype=torch.uint8), time)
    writer.close()
    assert [tuple(frame.image.shape) for frame in read_video(tmp_path / "out.mp4")] == [(3, 48, 64)] * 4


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera of 100 frames a second that FFmpeg draws."""
    source = "testsrc=size=64x48:rate=100,realtime"
    monkeypatch.setattr(video, "camera_device", lambda _: (source, "lavfi", {}))


def test_a_camera_gives_newer_and_newer_frames(camera: None) -> None:
    frames = list(islice(read_camera("0", every=2), 4))
    steps = [after.index - before.index for before, after in pairwise(frames)]
    assert min(steps) >= 2
    times = [(frame.index - frames[0].index) / 100 for frame in frames]
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)


def test_a_camera_stops_when_asked(camera: None) -> None:
    left = iter((False, False, False, False, True))
    frames = list(read_camera("0", stop=lambda: next(left, True)))
    assert len(frames) <= 4


def test_a_camera_that_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "camera_device", lambda _: ("testsrc=size=64x48:duration=0.2", "lavfi", {}))
    with pytest.raises(BrokenVideoError, match="camera 0: it gives no more pictures"):
        list(read_camera("0"))


@pytest.mark.skipif(not os.path.isdir("/dev"), reason="cameras are files of /dev on Linux alone")
def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(BrokenVideoError, match="camera 97: /dev/video97 does not exist; cameras here: "):
        list(read_camera("97"))


def test_what_ffmpeg_opens_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the documentation of FFmpeg's devices; no camera was there to try."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert video.camera_device("1")[:2] == ("1:none", "avfoundation")
    devices = [SimpleNamespace(name="Mic", media_types=["audio"]), SimpleNamespace(name="Cam", media_types=["video"])]
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(av, "enumerate_input_devices", lambda _: devices, raising=False)
    assert video.camera_device("0")[:2] == ("video=Cam", "dshow")
    with pytest.raises(BrokenVideoError, match="camera 1: expected one of 1 cameras: Cam"):
        video.camera_device("1")
