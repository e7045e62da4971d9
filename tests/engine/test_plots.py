from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dcn.engine.plots import draw_plots


def _ink(path: Path) -> float:
    return float((np.asarray(Image.open(path).convert("L")) < 250).mean())


def test_curves_are_drawn_from_the_log(tmp_path: Path) -> None:
    assert draw_plots(tmp_path) == []
    rows = [{"kind": "train", "step": step, "lr": 0.1, "loss": 1 / (step + 1)} for step in range(50)]
    rows += [{"kind": "eval", "step": 50, "AP": 0.5, "AP/cat": 0.5, "APs": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert draw_plots(tmp_path) == [tmp_path / "loss.png", tmp_path / "ap.png"]
    assert 0.01 < _ink(tmp_path / "loss.png") < 0.5
    assert 0.01 < _ink(tmp_path / "ap.png") < 0.5
