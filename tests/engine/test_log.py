from __future__ import annotations

import math
from pathlib import Path

import pytest

from dcn.engine.log import RunLog, duration, read_rows


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
