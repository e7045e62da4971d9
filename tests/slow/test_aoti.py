"""Compiled packages: the C++ compiler takes a minute or more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dcn
from dcn.cli.main import main
from dcn.engine import save_weights
from dcn.models import build
from tests.runs.small import CLASSES, OPTIONS, picture

MODELS: dict[str, dict[str, Any]] = {
    "faster_rcnn_r18_fpn": OPTIONS | {"deform_stages": ("c5",)},
    "deeplab_r18_dcn": {"width": 0.125, "head_channels": 16, "test_size": (64, 96)},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_package_answers_as_the_weights(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    weights, path = tmp_path / "model.safetensors", tmp_path / "model.pt2"
    save_weights(weights, build(name, CLASSES, **MODELS[name]), name, MODELS[name])
    assert main(["export", str(weights), "-o", str(path), "--format", "aoti"]) == 0
    first, second = dcn.load(weights, device="cpu"), dcn.load(path, device="cpu")
    image = picture()[:, :50, :70]
    options: dict[str, Any] = {} if first.task.name == "segmentation" else {"min_score": 0.1}
    one, other = first.predict(image, **options), second.predict(image, **options)
    if first.task.name == "segmentation":
        assert torch.equal(one.labels, other.labels)
    else:
        assert len(one) == len(other) > 0
        torch.testing.assert_close(other.boxes, one.boxes, rtol=0, atol=0.1)
        torch.testing.assert_close(other.scores, one.scores, rtol=0, atol=1e-3)
    code = (
        "import sys, torch, dcn.ops\n"
        "from torch._inductor import aoti_load_package\n"
        f"package = aoti_load_package({str(path)!r})\n"
        "assert 'dcn' in package.get_metadata() and 'dcn.models' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
