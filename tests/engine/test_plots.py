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


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    """COCO says -1 for objects of a size that the data does not have."""
    pictures = []
    for name, more in (("with", {"APs": -1.0, "mask/AP/cat": 0.3}), ("without", {})):
        rows = [{"kind": "eval", "step": step, "AP": step / 10, "mask/AP": 0.1, **more} for step in (1, 2)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (drawn,) = draw_plots(tmp_path / name)
        pictures.append(drawn.read_bytes())
    assert pictures[0] == pictures[1]
