"""Small detectors and images for the tests of this floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcn.data import open_dataset, write_image
from dcn.engine import save_weights
from dcn.models import build

CLASSES = ("cat", "dog")
OPTIONS: dict[str, Any] = {
    "width": 0.125,
    "stem_channels": 8,
    "fpn_channels": 16,
    "fc_channels": 16,
    "test_proposals": (20, 10),
    "test_size": (64, 96),
    "score_threshold": 0.0,
}

RECIPE = """\
base: synthetic_deformable
model:
  options: {width: 0.125, stem_channels: 8, fpn_channels: 16, fc_channels: 16, rois_per_image: 16,
            train_proposals: [50, 20], test_proposals: [20, 10], deform_stages: [c5], score_threshold: 0.0}
data: {options: {length: 4, size: [64, 64], num_classes: 3, glyph_size: [24, 38]}}
transforms: {short: [64], long: 64}
schedule: {epochs: null, steps: 2, batch_size: 2, lr_batch_size: null, milestones: []}
eval: {every: 2, metric: voc, images: 2, pictures: 1, report: false}
workers: 0
log_every: 1
"""
"""A training of two steps."""


def write_weights(folder: Path) -> Path:
    """Weights of a detector with random weights that keeps everything it scores."""
    torch.manual_seed(3)
    path = folder / "small.safetensors"
    save_weights(path, build("faster_rcnn_r18_fpn", CLASSES, **OPTIONS), "faster_rcnn_r18_fpn", OPTIONS)
    return path


def picture(index: int = 0) -> Tensor:
    """``[3, 64, 80]``: a generated image."""
    return open_dataset("synthetic", None, "test", length=index + 1, size=[64, 80], glyph_size=[14, 22])[index].image


def write_photos(folder: Path, *names: str) -> list[Path]:
    """Image files, each another image."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        write_image(folder / name, picture(index))
    return [folder / name for name in names]
