"""`dcn predict` and `Predictor.stream` on videos, cameras, URLs and lists: what is written, when, and kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dcn
from dcn.cli.main import main
from dcn.engine import save_weights
from dcn.formats.images import read_index_image
from dcn.formats.video import VideoWriter, read_video
from dcn.models import build
from dcn.runs.find_inputs import find_inputs
from dcn.runs.predict import predict_files
from dcn.runs.predictor import Predictor
from tests.made_videos import RATE, write_video
from tests.runs.small import picture, write_photos
from tests.web import served


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames at 10 frames a second, in which a generated image moves to the left."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    writer = VideoWriter(path, (64, 72), RATE)
    for index in range(10):
        writer.add(picture()[:, :, index // 2 : index // 2 + 72].contiguous(), index / 10)
    writer.close()
    return path


def rows(folder: Path, name: str = "detections.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def run(weights: Path, *words: object) -> int:
    return main(["predict", str(weights), *map(str, words), "--device", "cpu"])


def scores(row: dict[str, Any]) -> list[float]:
    return [one["score"] for one in row["annotations"]]


def frames_of(path: Path) -> list[Tensor]:
    return [frame.image for frame in read_video(path)]


def test_a_video_becomes_lines_and_a_video(weights: Path, predictor: Predictor, clip: Path, tmp_path: Path) -> None:
    assert run(weights, clip, "--output", tmp_path / "out", "--score", 0, "--every", 2) == 0
    lines = rows(tmp_path / "out")
    assert [(line["file_name"], line["frame"], line["time"]) for line in lines] == [
        (str(clip), index, index / 10) for index in (0, 2, 4, 6, 8)
    ]
    frames = frames_of(clip)
    for line in lines:
        alone = predictor.predict(frames[line["frame"]], min_score=0.0)
        assert scores(line) == pytest.approx(alone.scores.tolist(), abs=1e-6)
        assert (line["height"], line["width"]) == (64, 72)
    drawn = list(read_video(tmp_path / "out" / "clip.mp4"))
    assert [frame.time for frame in drawn] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8], abs=1e-4)
    assert float(drawn[0].rate) == pytest.approx(5)
    expected = predictor.task.draw(frames[4], predictor.predict(frames[4], min_score=0.0), predictor.classes)
    distance = [(drawn[2].image.float() - other.float()).abs().mean().item() for other in (expected, frames[4])]
    assert distance[0] < distance[1] / 2
    summary = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [(image["frame"], image["time"]) for image in summary["images"]] == [(i, i / 10) for i in (0, 2, 4, 6, 8)]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
        *("clip.mp4", "detections.json", "detections.jsonl")
    ]


def test_the_input_video_is_never_written_over(weights: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = clip.read_bytes()
    assert run(weights, clip, "--output", clip.parent) == 2
    assert "clip.mp4 is one of the inputs; choose another folder" in capsys.readouterr().err
    assert clip.read_bytes() == before


def test_mixed_inputs_stay_apart(weights: Path, clip: Path, tmp_path: Path) -> None:
    """Photos, two videos of one name and a URL in one batch size; each video is complete."""
    photos = write_photos(tmp_path / "photos", "clip.png", "b.png")
    (tmp_path / "other").mkdir()
    other = write_video(tmp_path / "other" / "clip.mp4")
    with served({"/b.jpg": photos[1].read_bytes()}) as root:
        words = [photos[0], clip, f"{root}/b.jpg?x=1", other, photos[1]]
        assert run(weights, *words, "--output", tmp_path / "out", "--frames", 3, "--batch", 4, "--score", 0) == 0
        expected = [(str(photos[0]), None), *((str(clip), i) for i in range(3)), (f"{root}/b.jpg?x=1", None)]
    expected += [*((str(other), i) for i in range(3)), (str(photos[1]), None)]
    assert [(line["file_name"], line.get("frame")) for line in rows(tmp_path / "out")] == expected
    written = sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix in (".jpg", ".mp4"))
    assert written == ["b.jpg", "b_1.jpg", "clip.jpg", "clip_1.mp4", "clip_2.mp4"]
    assert [len(frames_of(tmp_path / "out" / name)) for name in written[-2:]] == [3, 3]


def test_what_is_broken_does_not_stop_the_rest(
    weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (photo,) = write_photos(tmp_path, "a.png")
    data = write_video(tmp_path / "whole.mp4", noise=True, options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 7 // 10])
    (tmp_path / "bad.mp4").write_bytes(data[: len(data) // 20])
    (tmp_path / "text.png").write_text("<html>")
    words = [tmp_path / "bad.mp4", tmp_path / "cut.mp4", tmp_path / "text.png", photo]
    assert run(weights, *words, "--output", tmp_path / "out") == 1
    done = [Path(line["file_name"]).name for line in rows(tmp_path / "out")]
    assert done[-1] == "a.png"
    assert set(done[:-1]) == {"cut.mp4"}
    assert len(frames_of(tmp_path / "out" / "cut.mp4")) == len(done) - 1
    assert "3 inputs could not be read" in capsys.readouterr().out
    assert "cut.mp4: the video is damaged or incomplete" in caplog.text


def test_lines_on_standard_output_and_nothing_else(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_photos(tmp_path / "photos", "b.png", "ä.png")
    monkeypatch.chdir(tmp_path)
    assert run(weights, "photos", "--json", "-", "--score", 0) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["file_name"] for line in out.splitlines()] == [f"photos/{photo.name}" for photo in photos]
    assert "standard output: results of 2 images" in err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert run(weights, "photos", "--json", "lines.jsonl", "--output", "out", "--score", 0) == 0
    assert (tmp_path / "lines.jsonl").read_text() == out
    assert rows(tmp_path / "out") == [json.loads(line) for line in out.splitlines()]
    assert run(weights, "photos", "--json", "lines.jsonl") == 2
    assert "lines.jsonl exists and is not replaced" in capsys.readouterr().err


def test_names_that_are_no_utf8_come_back(weights: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", "a.png")
    odd = os.fsencode(tmp_path / "photos") + b"/\xff\n.png"
    os.rename(photos[0], odd)
    assert run(weights, tmp_path / "photos", "--output", tmp_path / "out") == 0
    (row,) = rows(tmp_path / "out")
    assert os.fsencode(row["file_name"]) == odd
    summary = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert os.fsencode(summary["images"][0]["file_name"]) == odd
    assert run(weights, tmp_path / "photos", "--output", tmp_path / "out") == 0


def test_the_first_result_comes_before_the_list_ends(weights: Path, tmp_path: Path) -> None:
    """Through real pipes: each path is written only when the result of the one before was read."""
    photos = write_photos(tmp_path, "a.png", "b.png", "c.png")
    command = [sys.executable, "-m", "dcn", "predict", str(weights), "-", "--json", "-", "--device", "cpu"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        guard = threading.Timer(60, process.kill)  # a program that waits for the end of the list would wait for ever
        guard.start()
        assert process.stdin is not None
        assert process.stdout is not None
        for photo in photos:
            process.stdin.write(os.fsencode(photo) + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["file_name"] == str(photo)
        process.stdin.close()
        assert process.wait(30) == 0
        guard.cancel()


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that FFmpeg draws, at 50 frames a second."""
    for place in ("dcn.formats.video", "dcn.runs.inputs"):
        monkeypatch.setattr(f"{place}.camera_device", lambda _: ("testsrc=size=64x48:rate=50,realtime", "lavfi", {}))


def test_a_camera_gives_so_many_frames(camera: None, weights: Path, tmp_path: Path) -> None:
    assert run(weights, "0", "--frames", 3, "--output", tmp_path / "out", "--batch", 8) == 0
    lines = rows(tmp_path / "out")
    assert [line["file_name"] for line in lines] == ["camera0"] * 3
    assert lines[0]["time"] == 0
    assert [line["frame"] for line in lines] == sorted({line["frame"] for line in lines})
    times = [frame.time for frame in read_video(tmp_path / "out" / "camera0.mp4")]
    assert times == pytest.approx([line["time"] for line in lines], abs=2e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_camera_ends_with_a_signal_and_keeps_everything(
    camera: None, predictor: Predictor, tmp_path: Path, number: signal.Signals
) -> None:
    (photo,) = write_photos(tmp_path, "a.png")
    before = signal.getsignal(number)
    seen: list[dict[str, Any]] = []

    def line(record: dict[str, Any]) -> None:
        seen.append(record)
        if len(seen) == 4:
            os.kill(os.getpid(), number)

    done = predict_files(predictor, find_inputs(["0", str(photo)]), tmp_path / "out", min_score=0.0, line=line)
    assert (done.images, done.skipped) == (4, 0)
    assert rows(tmp_path / "out") == seen
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["images"]) == 4
    assert len(frames_of(tmp_path / "out" / "camera0.mp4")) == 4
    assert signal.getsignal(number) is before


def test_an_interrupted_video_is_kept_as_far_as_it_came(predictor: Predictor, clip: Path, tmp_path: Path) -> None:
    def line(record: dict[str, Any]) -> None:
        if record["frame"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor, find_inputs([str(clip)]), tmp_path / "out", line=line)
    assert len(frames_of(tmp_path / "out" / "clip.mp4")) == 6
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["images"]) == 6
    assert not list((tmp_path / "out").glob(".*.tmp*"))
    predict_files(predictor, find_inputs([str(clip)]), tmp_path / "out")  # and may be replaced
    assert len(frames_of(tmp_path / "out" / "clip.mp4")) == 10


def test_a_segmentation_model_writes_the_map_of_every_frame(clip: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 0.125, "head_channels": 8, "test_size": (48, 64)}
    path = tmp_path / "segment.safetensors"
    save_weights(path, build("deeplab_r18", ("floor", "wall"), **options), "deeplab_r18", options)
    write_photos(tmp_path / "photos", "clip_000002.png")
    words = [clip, tmp_path / "photos", "--frames", 3, "--output", tmp_path / "out"]
    assert run(path, *words) == 0
    assert [line.get("frame") for line in rows(tmp_path / "out", "segmentation.jsonl")] == [0, 1, 2, None]
    written = sorted(file.name for file in (tmp_path / "out").iterdir() if file.suffix in (".png", ".mp4", ".jpg"))
    maps = ["clip_000000.png", "clip_000001.png", "clip_000002.png", "clip_000002_1.png"]
    assert written == ["clip.mp4", *maps[:2], "clip_000002.jpg", *maps[2:]]
    results = dcn.load(path, device="cpu").stream([clip], frames=3)
    for result, name in zip(results, (*maps[:2], maps[3]), strict=True):
        stored = read_index_image(tmp_path / "out" / name)
        assert torch.equal(stored, result.prediction.labels)


def test_results_in_python(predictor: Predictor, clip: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", "a.png", "b.png")
    results = list(predictor.stream([clip, *photos], frames=2, every=3, min_score=0.0, batch_size=3))
    assert [(result.name, result.frame, result.time) for result in results] == [
        *((str(clip), 0, 0.0), (str(clip), 3, pytest.approx(0.3))),
        *((str(photo), None, None) for photo in photos),
    ]
    for result in results:
        alone = predictor.predict(result.image, min_score=0.0)
        assert result.prediction.scores.tolist() == pytest.approx(alone.scores.tolist(), abs=1e-6)
    assert [result.name for result in predictor.stream(tmp_path, recursive=True)] == [str(photo) for photo in photos]


def test_a_stream_is_read_as_it_goes(predictor: Predictor) -> None:
    given: list[int] = []

    def images() -> Any:
        for index in range(5):
            given.append(index)
            yield picture(index)

    results = predictor.stream(images())
    assert given == []
    assert [next(results).name for _ in range(2)] == ["image 0", "image 1"]
    assert given == [0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.stream("none.png"), "got none at 'none.png'"),
        (lambda p: p.stream([], min_score=7), r"min_score: expected a number in \[0, 1\]"),
        (lambda p: p.stream([], batch_size=0), "batch_size: expected 1 or more"),
        (lambda p: p.predict(picture(), batch_size=0), "batch_size: expected 1 or more"),
        (lambda p: p.predict(picture(), min_score="0.5"), r"min_score: expected a finite number, got '0\.5'"),
        (lambda p: p.predict([picture()], batch_size=1.5), r"batch_size: expected 1 or more .*, got 1\.5"),
        (lambda p: p.stream([], every=0), "every: expected 1 or more"),
        (lambda p: p.predict("http://127.0.0.1:1/[x"), "http://127.0.0.1:1/"),
    ],
    ids=["path", "score", "batch", "batch-of-one", "text", "half", "every", "address"],
)
def test_a_wrong_call_is_told_at_once(
    predictor: Predictor, call: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcn.runs.download.time.sleep", lambda _: None)
    with pytest.raises(ValueError, match=message):
        call(predictor)


def test_predict_takes_an_address_and_explains_videos(predictor: Predictor, clip: Path, tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path, "a.png")
    with served({"/a.png": photo.read_bytes()}) as root:
        one = predictor.predict(f"{root}/a.png", min_score=0.0)
    assert torch.equal(one.boxes, predictor.predict(photo, min_score=0.0).boxes)
    with pytest.raises(ValueError, match=r"got a video; .*`Predictor.stream` take"):
        predictor.predict(clip)
    with pytest.raises(ValueError, match=r"got a folder; .*`Predictor.stream` take the images in it"):
        predictor.predict(tmp_path)


def test_no_images_are_an_error(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(weights) == 2
    assert (
        "images: expected files, folders, patterns, URLs, cameras or - after the model, got none"
        in capsys.readouterr().err
    )
