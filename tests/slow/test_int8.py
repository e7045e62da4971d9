"""The models that come with the package as integers: eight calibration images are enough, and accuracy stays."""

from __future__ import annotations

from pathlib import Path

import pytest

import dcn
from dcn.data.datasets.synthetic import Synthetic
from dcn.demo.shipped import DETECTOR, SEGMENTER, sample_images
from dcn.engine import load_recipe

LOSS = {DETECTOR: ("AP50", 0.03), SEGMENTER: ("mIoU", 0.02)}


@pytest.mark.parametrize("name", LOSS)
def test_a_shipped_model_keeps_its_accuracy(name: str, tmp_path: Path) -> None:
    data = Synthetic("train", **{**load_recipe(name).data.options, "length": 8})
    calibration = [data[index].image for index in range(8)]
    changes = ["data.options.length=50"]
    done = dcn.export(
        name, tmp_path / "small.onnx", precision="int8", calibration=calibration, split="test", changes=changes
    )
    assert done.evaluation is not None
    metric, loss = LOSS[name]
    assert done.evaluation.after[metric] > done.evaluation.before[metric] - loss
    assert done.parity.unmatched < 0.25
    assert done.parity.pixels < 0.05
    images = [image for _, image in sample_images(2, name)]
    assert len(dcn.load(done.path).predict(images)) == 2
