from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dcn.cli.main import main
from tests.report.coco_data import detections, truth


def _files(folder: Path) -> list[str]:
    """A good and a bad result file of one data set; the bad one has a class of its own, too."""
    data = truth()
    bad = detections(data, 0.3)
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "good.json").write_text(json.dumps(detections(data, 0.02)))
    more = {**bad[0], "category_id": 9}
    whole = {**data, "annotations": [*bad, more], "categories": [*data["categories"], {"id": 9, "name": "emu"}]}
    (folder / "bad.json").write_text(json.dumps(whole))
    files = [str(folder / "good.json"), str(folder / "bad.json")]
    return ["--results", *files, "--annotations", str(folder / "truth.json")]


@pytest.mark.filterwarnings("ignore:.*1 detections are of classes without annotations")
def test_files_are_compared_with_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", *_files(tmp_path), "--json", "--resamples", "50", "-o", str(tmp_path / "page.html")]
    assert main(command) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert (pair["first"], pair["second"], pair["images"]) == ("good", "bad", 30)
    ap = pair["metrics"]["AP"]
    assert ap["shown"]
    assert ap["low"] < ap["difference"] < ap["high"] < 0
    assert set(pair["per_class"]) == {"cat", "dog", "owl"}
    assert "good and bad" in (tmp_path / "page.html").read_text()
    for name, file in (("first", "good.json"), ("second", "bad.json")):
        assert main(["eval", "--results", str(tmp_path / file), *_files(tmp_path)[3:], "--json"]) == 0
        assert ap[name] == pytest.approx(json.loads(capsys.readouterr().out)["AP"])


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("a/found.json", "b/found.json"), ["a/found", "b/found"]),
        (("found.json", "found.jsonl"), ["found.json", "found.jsonl"]),
        (("run1.0", "run1.1"), ["run1.0", "run1.1"]),
    ],
    ids=["folders", "endings", "dots in folders"],
)
def test_names_tell_the_files_apart(
    names: tuple[str, str], labels: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(truth()))
    for name in names:
        path = tmp_path / name
        folder = path if path.suffix not in (".json", ".jsonl") else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        (path / "detections.json" if folder == path else path).write_text("" if path.suffix == ".jsonl" else "[]")
    files = [str(tmp_path / name) for name in names]
    command = ["compare", "--results", *files, "--annotations", str(tmp_path / "truth.json")]
    assert main([*command, "--resamples", "2", "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert [pair["first"], pair["second"]] == labels


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["runs/a"], "--results: expected --annotations beside it and no runs, got 'runs/a'", id="runs"),
        pytest.param(["--device", "cpu"], "--device: expected runs, got result files", id="device"),
        pytest.param(["--resamples", "0"], "resamples: expected an integer from 1 to ", id="resamples"),
    ],
)
def test_words_that_do_not_fit_files_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words, *_files(tmp_path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param(["--results", "a.json"], "no --annotations", id="no-annotations"),
        pytest.param(["a", "b", "--iou-type", "segm"], "--iou-type: expected --results.*got runs", id="no-results"),
        pytest.param(
            ["--annotations", "t.json"], "--annotations: expected --results.*got none", id="annotations-alone"
        ),
        pytest.param(
            ["--results", "a.json", "./a.json", "--annotations", "t.json"], "two or more different files", id="same"
        ),
    ],
)
def test_what_lacks_is_said(command: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *command]) == 2
    assert re.search(said, capsys.readouterr().err)
