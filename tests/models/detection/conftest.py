"""A detector small enough for tests, and a picture that it can learn."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.models.detection.pyramid.rcnn_fpn import rcnn_fpn
from dcn.models.options import make_model
from dcn.structures import Target

# 18 layers with 1/8 of the channels; few proposals.
tiny = partial(
    make_model,
    rcnn_fpn,
    2,
    depth=18,
    width=1 / 8,
    stem_channels=8,
    fpn_channels=16,
    fc_channels=32,
    anchor_scale=4.0,
    norm="train",
    frozen_stages=0,
    train_proposals=(50, 30),
    test_proposals=(50, 30),
    rois_per_image=16,
)


@pytest.fixture
def picture() -> Tensor:
    """``[3, 64, 96]``: two bright rectangles on dark noise."""
    image = torch.randint(0, 40, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image[:, 8:40, 8:48] = 200
    image[0, 24:56, 60:88] = 250
    return image


@pytest.fixture
def target() -> Target:
    """The rectangles, with masks."""
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 8:40, 8:48] = True
    masks[1, 24:56, 60:88] = True
    boxes = torch.tensor([[8.0, 8, 48, 40], [60, 24, 88, 56]])
    return Target(boxes, torch.tensor([0, 1]), (64, 96), masks=masks)


def train(model: FasterRCNN, picture: Tensor, target: Target, steps: int) -> list[float]:
    """Total losses of some steps of Adam on one picture; the last third with a tenth of the rate."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * 2 // 3])
    totals = []
    model.train()
    for _ in range(steps):
        losses = model([picture], [target])
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        totals.append(total.item())
    return totals
