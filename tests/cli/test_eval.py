from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dcn.cli.eval import table
from dcn.cli.main import main


def test_result_files_give_the_published_figures(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = shared / "eval" / "voc100" / "coco_dets.json"
    command = ["eval", "--results", str(results), "--annotations", str(shared / "data" / "voc2012_100"), "--json"]
    assert main([*command, "--method", "11point"]) == 0
    assert json.loads(capsys.readouterr().out)["AP50"] == pytest.approx(0.607511, abs=1e-4)


def test_the_table_puts_classes_last() -> None:
    lines = table({"AP/cat": 0.5, "AP": 0.25, "APl": math.nan}).splitlines()
    assert [line.split() for line in lines] == [["AP", "0.2500"], ["APl", "nan"], ["AP/cat", "0.5000"]]
