from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcn.cli.main import main


def test_result_files_give_the_published_metrics(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = shared / "eval" / "voc100" / "coco_dets.json"
    command = ["eval", "--results", str(results), "--annotations", str(shared / "data" / "voc2012_100"), "--json"]
    assert main([*command, "--method", "11point"]) == 0
    assert json.loads(capsys.readouterr().out)["AP50"] == pytest.approx(0.607511, abs=1e-4)
