from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path

import pytest

from dcn.engine.log import Console, RunLog, duration, fitting, read_rows, shell_command, two_columns


def test_rows_after_the_saved_step_are_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": step / 2, "bad": math.nan})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    log = RunLog(tmp_path, start=2)
    log.write("train", 3, {"loss": 9.0})
    log.close()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert rows[0]["bad"] is None


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (61, "0:01:01"), (36061, "10:01:01")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log._file = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115  # stands for a disk without room
    with pytest.raises(OSError, match=r"metrics\.jsonl: the file could not be written: No space left"):
        log.write("train", 1, {"loss": 1.0})


def test_unreadable_lines_are_skipped_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "train", "step": 1}\n\xff\x00{\n[1]\n{"step": "x"}\n{"kind": "eval", "step": 2}\n{"kin')
    assert [row["step"] for row in read_rows(path)] == [1, 2]
    assert "3 unreadable lines are skipped" in caplog.text


def test_the_bar_is_wide_and_its_line_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    columns = 100
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    console = Console(2000)
    losses = dict.fromkeys(("lr", "loss", "loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "img/s"), 0.123456)
    for step in range(1, 1001):
        console.advance()
        console.losses(step, losses)
    console.close()
    line = capsys.readouterr().err.replace("\n", "").split("\r")[-1]
    assert "1000/2000" in line
    assert "loss=0.1235" in line
    assert len(line.rstrip()) <= columns
    bar = line.partition("|")[2].partition("|")[0]
    assert len(bar) == 24
    assert bar.strip() == "\u2588" * 12


@pytest.mark.parametrize(("columns", "text"), [(3, ""), (4, "ab=1"), (8, "ab=1"), (9, "ab=1 cd=2"), (99, "ab=1 cd=2")])
def test_as_many_words_as_fit(columns: int, text: str) -> None:
    assert fitting(["ab=1", "cd=2"], columns) == text


def test_lines_for_the_reader() -> None:
    assert two_columns({"model": "x", "weights": 3}) == "model    x\nweights  3"
    assert shell_command("dcn", "eval", Path("a b")) == "dcn eval 'a b'"
