"""A prediction never costs a file: neither a photo, nor anything else that it did not write itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import dcn
from dcn.cli.main import main
from dcn.runs import images
from dcn.runs.predict import predict_files
from dcn.runs.predictor import Predictor
from tests.runs.small import write_photos


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("form", ["folder", "link", "hard link"])
def test_a_photo_is_never_written_over(predictor: Predictor, tmp_path: Path, form: str) -> None:
    photos = write_photos(tmp_path / "photos", "a.jpg", "b.jpg")
    output = tmp_path / "photos"
    if form != "folder":
        output = tmp_path / "out"
        output.mkdir()
        (os.symlink if form == "link" else os.link)(photos[1], output / "b.jpg")
    before = _contents(tmp_path / "photos")
    with pytest.raises(ValueError, match="is one of the inputs; choose another folder"):
        predict_files(predictor, photos, output)
    assert _contents(tmp_path / "photos") == before


@pytest.mark.parametrize("name", ["a.jpg", "detections.json", "detections.jsonl"])
def test_a_file_of_somebody_else_is_kept(predictor: Predictor, tmp_path: Path, name: str) -> None:
    photos = write_photos(tmp_path / "photos", "a.png", "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"{name} exists, and this command did not write it"):
        predict_files(predictor, photos, tmp_path / "out")
    assert _contents(tmp_path / "out") == {name: b"mine"}


def test_a_second_prediction_replaces_its_own_files(predictor: Predictor, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", "a.png", "b.png")
    predict_files(predictor, photos, tmp_path / "out", min_score=1.0)
    names = set(_contents(tmp_path / "out"))
    first = (tmp_path / "out" / "a.jpg").read_bytes()
    predict_files(predictor, photos, tmp_path / "out", min_score=0.0)
    assert set(_contents(tmp_path / "out")) == names
    assert {"a.jpg", "b.jpg", "detections.json"} <= names
    assert (tmp_path / "out" / "a.jpg").read_bytes() != first
    # A picture that was changed since belongs to the user.
    (tmp_path / "out" / "a.jpg").write_bytes(b"edited")
    with pytest.raises(ValueError, match=r"a\.jpg exists, and this command did not write it"):
        predict_files(predictor, photos, tmp_path / "out")
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"edited"


def test_images_of_one_name_stay_apart(predictor: Predictor, tmp_path: Path) -> None:
    photos = [*write_photos(tmp_path / "x", "a.png", "a_1.png"), *write_photos(tmp_path / "y", "A.png", "a.bmp")]
    done = predict_files(predictor, photos, tmp_path / "out")
    assert done.images == 4
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.jpg"))
    assert pictures == ["A_2.jpg", "a.jpg", "a_1.jpg", "a_3.jpg"]
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [str(path) for path in photos]


def test_an_interruption_keeps_what_is_done(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image has its line at once; `detections.json` of the first two is complete."""
    photos = write_photos(tmp_path / "photos", "a.png", "b.png", "c.png")
    lines: list[int] = []

    def open_image(path: Path) -> Tensor:
        stream = tmp_path / "out" / "detections.jsonl"
        lines.append(len(stream.read_text().splitlines()))
        if path.name == "c.png":
            raise KeyboardInterrupt
        return real(path)

    real: Any = images.open_image
    monkeypatch.setattr("dcn.runs.inputs.open_image", open_image)
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor, photos, tmp_path / "out")
    assert lines == [0, 1, 2]
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(image["file_name"]).name for image in content["images"]] == ["a.png", "b.png"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jpg")) == ["a.jpg", "b.jpg"]
    monkeypatch.undo()
    assert predict_files(predictor, photos, tmp_path / "out").images == 3


def test_the_stream_and_the_summary_say_the_same(predictor: Predictor, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", "a.png", "b.png")
    predict_files(predictor, photos, tmp_path / "out", min_score=0.0, pictures=False)
    records = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines()]
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    for number, (record, photo) in enumerate(zip(records, photos, strict=True), start=1):
        detections = predictor.predict(photo, min_score=0.0)
        scores = [row["score"] for row in record["annotations"]]
        assert scores == pytest.approx(detections.scores.tolist(), abs=1e-6)
        assert [row["category"] for row in record["annotations"]] == [
            predictor.classes[label] for label in detections.labels.tolist()
        ]
        rows = [row for row in content["annotations"] if row["image_id"] == number]
        assert [row["bbox"] for row in rows] == [row["bbox"] for row in record["annotations"]]
        assert [names[row["category_id"]] for row in rows] == [row["category"] for row in record["annotations"]]


def test_detections_do_not_depend_on_the_batch(predictor: Predictor, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", "a.png", "b.png", "c.png")
    alone = [predictor.predict(photo, min_score=0.0) for photo in photos]
    for one, other in zip(alone, predictor.predict(photos, min_score=0.0, batch_size=3), strict=True):
        assert other.scores.tolist() == pytest.approx(one.scores.tolist(), abs=1e-6)
        assert other.boxes.flatten().tolist() == pytest.approx(one.boxes.flatten().tolist(), abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "batch_size: expected 1 or more images of one forward pass, got 0"),
        (["--score", "50"], "min_score: expected a number in [0, 1], got 50"),
        (["--classes", "a,b"], "classes: "),
        (["schedule.lr=1"], "expected one of transforms.test_short, transforms.long, tta.scales, "),
        (["tta.flipp=true"], "tta.flipp: unknown key; did you mean 'flip'"),
        (["tta.window=64,64", "tta.overlap=16"], "tta: expected options of detectors, got 'window'"),
    ],
    ids=["batch", "score", "classes", "key", "typo", "task"],
)
def test_a_wrong_call_writes_nothing(
    weights: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (photo,) = write_photos(tmp_path / "photos", "a.png")
    command = ["predict", str(weights), str(photo), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*command, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_size_is_a_key_of_the_recipe(weights: Path, tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path / "photos", "a.png")
    command = ["predict", str(weights), str(photo), "--device", "cpu", "--score", "0", "--no-pictures"]
    assert main([*command, "--output", str(tmp_path / "out"), "transforms.test_short=48"]) == 0
    (record,) = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines()]
    detections = dcn.load(weights, device="cpu").predict(photo, min_score=0.0, resize=(48, 96))
    assert [row["score"] for row in record["annotations"]] == pytest.approx(detections.scores.tolist(), abs=1e-6)


def test_a_file_name_with_an_equals_sign_is_an_image(weights: Path, tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path, "run.x=1.png")
    command = ["predict", str(weights), str(photo), "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert (tmp_path / "out" / "run.x=1.jpg").is_file()


def test_the_default_scores_are_told(predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line draws pictures, Python gives what metrics need; both say so."""
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"score threshold (default {predictor.task.default_score}, for pictures" in said
    assert "predictor.task.default_score" in str(Predictor.predict.__doc__)
    (photo,) = write_photos(tmp_path, "a.png")
    own = predictor.predict(photo, min_score=float(predictor.model.score_threshold))  # type: ignore[arg-type]
    assert predictor.predict(photo).scores.tolist() == own.scores.tolist() != []
