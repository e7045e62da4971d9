"""Pixels and images of each class, of masks and of outlines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcn.cli.main import main
from dcn.data.pixel_statistics import pixel_counts
from dcn.structures import Sample, SegmentationMap, Target
from tests.data.layouts import CLASSES, HEIGHT, LAYOUTS, WIDTH, items, make_index_masks

PIXELS = HEIGHT * WIDTH


def test_masks_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six images of one class each, two for each class; one pixel in each is ignored."""
    make_index_masks(tmp_path, beside=False)
    words = ["data", "stats", str(tmp_path)]
    assert main([*words, "--json", "--plot", str(tmp_path / "plot.png")]) == 0
    content = json.loads(capsys.readouterr().out)
    each = {"pixels": 2 * (PIXELS - 1), "share": pytest.approx(1 / 3, abs=1e-6), "images": 2}
    assert content == {
        "images": 6,
        "unlabelled_images": 0,
        "pixels": 6 * (PIXELS - 1),
        "ignored_pixels": 6,
        "classes": dict.fromkeys(("0", "1", "2"), each),
    }
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 500
    assert main(words) == 0
    head, _, first, *_ = capsys.readouterr().out.splitlines()
    assert head == f"6 images, 0 without a mask; {6 * PIXELS:,} pixels, 0.03% of them ignored (255)"
    assert first.split() == ["0", f"{2 * (PIXELS - 1):,}", "33.33%", "2"]


def test_outlines_are_counted_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["LabelMe"].make(tmp_path, items())
    assert main(["data", "stats", str(tmp_path), "--semantic", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    expected = dict.fromkeys(("background", *CLASSES), 0)
    for item in items():
        canvas = np.full((HEIGHT, WIDTH), "background", dtype=object)
        for name, x1, y1, x2, y2 in sorted(item.boxes, key=lambda box: -(box[3] - box[1]) * (box[4] - box[2])):
            canvas[y1:y2, x1:x2] = name
        for name in expected:
            expected[name] += int((canvas == name).sum())
    assert {name: entry["pixels"] for name, entry in content["classes"].items()} == expected
    assert main(["data", "stats", str(tmp_path)]) == 0
    assert "objects per image" in capsys.readouterr().out


class _Made:
    """A dataset of annotations without images."""

    name, classes = "made", ("a", "b")

    def __init__(self, *targets: object) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def target(self, index: int) -> object:
        return self.targets[index]

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("images are not decoded")


def test_images_without_a_mask_and_wrong_labels() -> None:
    labels = torch.tensor([[0, 1, 1], [255, 1, 1]])
    counts = pixel_counts([_Made(SegmentationMap(labels, 1), None)])  # type: ignore[list-item]
    assert (counts.pixels.tolist(), counts.images.tolist()) == ([1, 4], [1, 1])
    assert (counts.annotated, counts.unlabelled, counts.ignored) == (1, 1, 1)
    with pytest.raises(ValueError, match="made: image 7: expected labels 0 to 1 and 255, got 2"):
        pixel_counts([_Made(SegmentationMap(labels + 1, 7))])  # type: ignore[list-item]
    boxes = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), image_id=1, size=(4, 4))
    with pytest.raises(ValueError, match="expected segmentation masks, got boxes in made"):
        pixel_counts([_Made(boxes)])  # type: ignore[list-item]
