from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from dcn.cli.main import VERBS, _in_words, main, parse
from tests.data.made_files import make_voc, voc_object, voc_xml


def test_help_does_not_import_torch() -> None:
    code = (
        "import atexit, sys; from dcn.cli.main import main; atexit.register(lambda: print('torch' in sys.modules)); "
        "main()"
    )
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], env={"PYTHONPATH": source}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("False")
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize(
    "words",
    ["train bccd_plain a=1 --name x b=2", "train bccd_plain --name x a=1 b=2", "train --name x bccd_plain a=1 b=2"],
    ids=["both", "after", "before"],
)
def test_overrides_may_stand_anywhere(words: str) -> None:
    arguments = parse(words.split())
    assert (arguments.words, arguments.name) == (["bccd_plain", "a=1", "b=2"], "x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train x --bad=1", "unrecognized arguments: --bad=1; `dcn train --help` lists the options"),
        ("train x --lr 0.1", "--lr 0.1; a setting of the recipe is a word without dashes, schedule.lr=VALUE"),
        ("predict x --test-short=5", "a setting of the recipe is a word without dashes, transforms.test_short=VALUE"),
        ("models a b=2", "unrecognized arguments: b=2; `dcn models --help` lists the options"),
        ("data show x --bad", "unrecognized arguments: --bad; `dcn data show --help` lists the options"),
        ("demo offsets --bad", "unrecognized arguments: --bad; `dcn demo offsets --help` lists the options"),
        ("xyz", "got 'xyz'; `dcn --help` says what they do"),
        ("predikt x", "got 'predikt'; did you mean 'predict'?"),
    ],
    ids=["option", "key", "two-words", "word", "second-word", "third-word", "verb", "near-verb"],
)
def test_what_is_not_an_override_is_refused(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(words.split())
    error = capsys.readouterr().err
    assert "dcn: error: " in error
    assert message in error


@pytest.mark.parametrize(
    "words",
    ["train x", "eval x", "predict x y", "report x", "compare x y", "explore x", "demo", "demo offsets", "export x",
     "import x", "data show x", "data split x", "data convert x --to voc", "reproduce table1"],
)  # fmt: skip
def test_o_is_short_for_output_everywhere(words: str) -> None:
    assert str(parse([*words.split(), "-o", "there"]).output) == "there"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train bcd_plain", "did you mean 'bccd_plain', 'cards_plain'"),
        ("train bccd_plain schedule.lrr=1", "schedule.lrr: unknown key; did you mean 'lr'?"),
        ("train bccd_plain data.root=/no/such", "data.root: expected a folder, got '/no/such'"),
        ("train", "expected one recipe, got none"),
        ("train photos", "got 'photos'; a folder of data goes behind it, as data.root=photos;"),
        (
            "eval letters_detection data.root=photos",
            "leave data.root out, or read the folder with data.format=auto data.options=",
        ),
        ("train x --name y z", "expected one recipe, got x z"),
        ("train --resume /no/such", "expected a run folder, got /no/such"),
        ("train synthetic_plain model.name=faster_rcnn_r18_fpm", "did you mean 'faster_rcnn_r18_fpn'"),
        ("train synthetic_plain model.options.widht=1", "did you mean 'width'"),
        ("train synthetic_plain schedule.accumulate=8 amp=fp16 --device cuda:77", "device: expected cpu"),
        ("eval /no/such", "expected a run folder or a weights file, got"),
        ("eval --results x.json", "--results: expected --annotations"),
        ("predict /no/such x.jpg", "got none at 'x.jpg'"),
        ("models faster_rcnn_r50_fpm", "did you mean 'faster_rcnn_r50_fpn'"),
    ],
)
def test_an_error_is_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert main(words.split()) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("dcn: error: ")
    assert message in error


def test_traceback_shows_the_place() -> None:
    with pytest.raises(ValueError, match="did you mean"):
        main(["train", "bcd_plain", "--traceback"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(PermissionError(13, "Permission denied", "out"), "out: Permission denied", id="system"),
        pytest.param(OSError("the disk is full"), "the disk is full", id="own"),
        pytest.param(ValueError("lr: expected float"), "lr: expected float", id="value"),
    ],
)
def test_errors_are_told_without_numbers(error: ValueError | OSError, words: str) -> None:
    assert _in_words(error) == words


def test_a_console_without_the_letters_shows_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_voc(tmp_path, {"a": voc_xml(voc_object("猫"))})
    console = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", console)
    assert main(["data", "check", str(tmp_path)]) == 0
    console.seek(0)
    assert r"1 object (\u732b 1): no problems" in console.read()
