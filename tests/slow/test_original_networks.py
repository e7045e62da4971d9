"""The recorded networks at full size, and every network on one picture: minutes, not seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcn.structures import Target
from tests.golden.check_network import check, read_shapes
from tests.models.detection.original.test_detector import NETWORKS, check_that_a_picture_is_learned

RECORDED = (
    "deform_conv_demo_test",
    "fpn_dcn_coco_test",
    "rcnn_dcn_coco_test",
    "rfcn_dcn_coco_test",
    "rfcn_dcn_coco_train",
    "rfcn_voc_test",
)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_network(name: str, shared: Path) -> None:
    """5 to 30 s each."""
    shapes = shared / "params" / f"{name.rsplit('_', 1)[0]}.txt"
    lines: list[str] = []
    agrees = check(
        shared / "golden" / f"net_{name}.npz", read_shapes(shapes) if shapes.exists() else None, lines.append
    )
    assert agrees, "\n".join(lines)


@pytest.fixture
def picture() -> Tensor:
    """``[3, 64, 96]``: two bright rectangles on dark noise."""
    image = torch.randint(0, 40, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image[:, 8:40, 8:48] = 200
    image[0, 24:56, 60:88] = 250
    return image


@pytest.mark.parametrize("name", NETWORKS)
def test_a_picture_is_learned(name: str, picture: Tensor) -> None:
    """10 to 60 s each."""
    target = Target(torch.tensor([[8.0, 8, 48, 40], [60, 24, 88, 56]]), torch.tensor([0, 1]), (64, 96))
    check_that_a_picture_is_learned(name, 200, picture, target)
