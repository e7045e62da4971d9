from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dcn.cli.main import main


def test_result_files_give_the_published_metrics(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = shared / "eval" / "voc100" / "coco_dets.json"
    command = ["eval", "--results", str(results), "--annotations", str(shared / "data" / "voc2012_100"), "--json"]
    assert main([*command, "--method", "11point"]) == 0
    assert json.loads(capsys.readouterr().out)["AP50"] == pytest.approx(0.607511, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--outside", "clip"], "--outside: expected --results.*data.outside=clip", id="outside"),
        pytest.param(["--iou-type", "segm", "--thresholds", "0.5"], "--iou-type, --thresholds: expected", id="two"),
    ],
)
def test_options_of_result_files_are_refused_for_a_model(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "letters_detection", *options]) == 2
    assert re.search(said, capsys.readouterr().err)
