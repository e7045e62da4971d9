"""A detector of one's own, in a file of its own: with one row in the table it goes through every verb."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dcn
from dcn.cli.main import main
from dcn.models import MODELS
from dcn.models.detection import Detector, Limits
from dcn.models.detection.shared.frames import Frames
from dcn.models.preprocess import ImageBatch, Preprocess
from dcn.nn import DeformConv2d
from dcn.structures import Target
from tests.runs.small import write_photos

STRIDE = 16
RECIPE = """\
model: {name: cells}
data: {format: synthetic, options: {length: 4, size: [64, 64], num_classes: 3, glyph_size: [24, 38]}}
transforms: {short: [64], long: 64}
schedule: {steps: 2, batch_size: 2, lr: 0.1}
eval: {every: 2, pictures: 1}
workers: 0
log_every: 1
"""


class Cells(Detector):
    """A box of fixed size and a score of every class for each cell of 16 pixels."""

    def __init__(self, classes: Sequence[str], test_size: tuple[int, int]) -> None:
        super().__init__(Preprocess(divisor=STRIDE), classes=classes, test_size=test_size, score_threshold=0.01)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, STRIDE, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), DeformConv2d(8, 8, 3, padding=1)
        )
        self.head = nn.Conv2d(8, len(classes), 1)

    @property
    def limits(self) -> Limits:
        return Limits(nms_iou=0.5, max_detections=10)

    def candidates(self, pixels: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        logits = self.head(self.backbone(pixels)).float()
        y, x = torch.meshgrid(*(torch.arange(side, device=pixels.device) for side in logits.shape[2:]), indexing="ij")
        cells = torch.stack((x, y, x + 1, y + 1), -1).flatten(0, 1).float() * STRIDE
        return (cells[None] * frames.factors[:, None])[:, :, None], logits.flatten(2).transpose(1, 2).sigmoid()

    def losses(self, batch: ImageBatch, frames: Frames, targets: Sequence[Target]) -> dict[str, Tensor]:
        logits = self.head(self.backbone(batch.pixels)).float()
        labels = torch.zeros_like(logits)
        for index, target in enumerate(targets):
            centers = ((target.boxes[:, :2] + target.boxes[:, 2:]) / 2 / STRIDE).long()
            for (x, y), label in zip(centers.tolist(), target.labels.tolist(), strict=True):
                labels[index, label, y, x] = 1
        return {"loss_cells": nn.functional.binary_cross_entropy_with_logits(logits, labels)}


def cells(num_classes: int = 3, *, test_size: tuple[int, int] = (64, 64)) -> Cells:
    """The builder, which is the row of the table."""
    return Cells([f"class_{index}" for index in range(num_classes)], (test_size[0], test_size[1]))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(MODELS, "cells", cells)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    (tmp_path / "cells.yaml").write_text(RECIPE)
    command = ["train", str(tmp_path / "cells.yaml"), "--output", str(tmp_path), "--name", "a", "--device", "cpu"]
    assert main(command) == 0
    return tmp_path / "cells" / "a"


def test_it_goes_through_every_verb(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 <= dcn.Run(run).metrics["AP50"] <= 1
    assert (run / "report.html").is_file()
    assert main(["eval", str(run), "--device", "cpu", "--json", "--save", "tta.flip=true"]) == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"AP", "AP50"}
    (photo,) = write_photos(tmp_path, "photo.png")
    assert main(["predict", str(run), str(photo), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert (tmp_path / "out" / "photo.jpg").is_file()
    capsys.readouterr()
    assert main(["bench", "model", "cells", "--size", "64x64", "--repetitions", "1", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("images/s", "backbone", "head", "deformable layers"))
    assert main(["bench", "model", "cells", "--size", "64x64", "--repetitions", "1", "--device", "cpu", "--train"]) == 0
    capsys.readouterr()
    assert main(["analyze", "effective-dilation", str(run), "--device", "cpu"]) == 0
    assert "backbone.3" in capsys.readouterr().out
    assert main(["models", "cells"]) == 0
    parameters = sum(parameter.numel() for parameter in cells().parameters())
    assert f"cells: {parameters:,} parameters" in capsys.readouterr().out
    assert main(["models", "--filter", "cells"]) == 0
    assert "cells" in capsys.readouterr().out


def test_python_loads_it(run: Path) -> None:
    predictor = dcn.load(run, device="cpu")
    assert predictor.task.name == "detection"
    detections = predictor.predict(torch.zeros(3, 48, 64, dtype=torch.uint8), min_score=0.0)
    assert len(detections) == 10
    assert float(detections.boxes[:, 2].max()) <= 64
