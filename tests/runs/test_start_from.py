"""Training from the weights of a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dcn.engine import save_weights
from dcn.models import build
from dcn.runs.build import start_from

CLASSES = ("a", "b")
SMALL = {"depth": 18, "width": 0.125, "stem_channels": 8, "norm": "eval"}
HEADS: dict[str, dict[str, Any]] = {
    "rfcn_r50": {"rpn_channels": 8, "head_channels": 8, "proposals": (40, 8), "score_threshold": 0.0},
    "rcnn_r50": {"rpn_channels": 8, "head_channels": 8, "fc_channels": 8, "proposals": (40, 8), "score_threshold": 0.0},
    "deeplab_r50": {"head_channels": 8},
}


@pytest.mark.parametrize("name", HEADS)
def test_a_deformable_model_starts_from_the_plain_one(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    options = {**SMALL, **HEADS[name]}
    plain = build(name, CLASSES, **options)
    path = tmp_path / "plain.safetensors"
    save_weights(path, plain, name, options)
    torch.manual_seed(2)
    deformable = build(name, CLASSES, **options, deform_layers=3)
    kept = start_from(deformable, path)
    assert len(kept) == 6
    assert all(key.endswith(("conv_offset.weight", "conv_offset.bias")) for key in kept)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        ours, theirs = (model.eval()([image])[0] for model in (deformable, plain))
    if name == "deeplab_r50":
        assert torch.equal(ours.labels, theirs.labels)
    else:
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-6)


def test_other_missing_weights_are_refused(tmp_path: Path) -> None:
    options = {**SMALL, **HEADS["deeplab_r50"]}
    path = tmp_path / "deformable.safetensors"
    save_weights(path, build("deeplab_r50", CLASSES, **options, deform_layers=1), "deeplab_r50", options)
    with pytest.raises(ValueError, match=r"unexpected: backbone\.layer4\.1\.conv2\.conv_offset\.weight"):
        start_from(build("deeplab_r50", CLASSES, **options), path)
    other = build("deeplab_r50", CLASSES, **{**options, "depth": 50})
    with pytest.raises(ValueError, match=r"missing: backbone\.layer1\.0\.conv3\.weight"):
        start_from(other, path)
