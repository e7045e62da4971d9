"""A detector from outside of the package: what it must answer, and what it gets for that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from dcn.analysis import count_model
from dcn.models.detection import Detector, Limits, TTADetector
from dcn.models.detection.shared.frames import Frames
from dcn.models.inference import prepare
from dcn.models.preprocess import ImageBatch, Preprocess
from dcn.structures import Detections, Target
from dcn.tta import TTA

STRIDE = 16


class CellDetector(Detector):
    """One box of fixed size per cell of 16 pixels, with a class score: no anchors, no second stage."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(Preprocess(divisor=STRIDE), classes=classes, test_size=(64, 96), score_threshold=0.3)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, STRIDE, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, len(classes), 1)

    @property
    def limits(self) -> Limits:
        return Limits(nms_iou=0.5, max_detections=10)

    def candidates(self, pixels: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        logits = self.head(self.backbone(pixels)).float()
        cells = self._cells(logits.shape[2], logits.shape[3], pixels.device)
        boxes = cells[None] * frames.factors[:, None]
        return boxes[:, :, None], logits.flatten(2).transpose(1, 2).sigmoid()

    def losses(self, batch: ImageBatch, frames: Frames, targets: Sequence[Target]) -> dict[str, Tensor]:
        logits = self.head(self.backbone(batch.pixels)).float()
        labels = torch.zeros_like(logits)
        for index, target in enumerate(targets):
            centres = ((target.boxes[:, :2] + target.boxes[:, 2:]) / 2 / STRIDE).long()
            for (x, y), label in zip(centres.tolist(), target.labels.tolist(), strict=True):
                labels[index, label, y, x] = 1
        return {"loss_cells": nn.functional.binary_cross_entropy_with_logits(logits, labels)}

    @staticmethod
    def _cells(rows: int, columns: int, device: torch.device) -> Tensor:
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        start = torch.stack((x, y, x, y), -1).flatten(0, 1) * STRIDE
        return (start + torch.tensor([0, 0, STRIDE, STRIDE])).float().to(device)


@pytest.fixture
def image() -> Tensor:
    """``[3, 64, 96]``: noise with a red and a blue cell."""
    image = torch.randint(0, 60, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image[0, 16:32, 32:48] = 255
    image[2, 32:48, 64:80] = 255
    return image


@pytest.fixture
def target() -> Target:
    return Target(torch.tensor([[32.0, 16, 48, 32], [64, 32, 80, 48]]), torch.tensor([0, 1]), (64, 96))


@pytest.fixture
def model(image: Tensor, target: Target) -> CellDetector:
    """A detector that has learned the image."""
    torch.manual_seed(0)
    model = CellDetector(["red", "blue"]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        losses = model([image, image.flip(2)], [target, _flipped(target)])
        assert isinstance(losses, dict)
        optimizer.zero_grad()
        losses["loss_cells"].backward()
        optimizer.step()
    return model.eval()


def _flipped(target: Target) -> Target:
    boxes = target.boxes.clone()
    boxes[:, [0, 2]] = 96 - target.boxes[:, [2, 0]]
    return Target(boxes, target.labels, target.size)


def _sorted(detections: Detections) -> list[list[float]]:
    order = detections.labels.argsort()
    return torch.cat((detections.boxes, detections.labels[:, None]), 1)[order].tolist()


EXPECTED = [[32, 16, 48, 32, 0], [64, 32, 80, 48, 1]]


@torch.no_grad()
def test_it_trains_and_detects(model: CellDetector, image: Tensor) -> None:
    (detections,) = model([image])
    assert isinstance(detections, Detections)
    assert _sorted(detections) == EXPECTED
    (large,) = model([image], output_sizes=[(128, 192)])
    assert isinstance(large, Detections)
    assert _sorted(large) == [[64, 32, 96, 64, 0], [128, 64, 160, 96, 1]]
    assert (model.task, model.has_masks, model.test_size) == ("detection", False, (64, 96))


@torch.no_grad()
def test_test_time_augmentation_asks_the_protocol(model: CellDetector, image: Tensor) -> None:
    several = TTADetector(model, TTA(scales=(1.0,), flip=True), lambda image, *_: image).eval()
    (detections,) = several([image])
    assert _sorted(detections) == EXPECTED
    assert several.rule.max_per_image == 10
    assert len(model.pre_nms([image], [(64, 96)], 0.0)[0]) == 4 * 6 * 2


def test_wrong_calls_get_the_messages_of_every_detector(model: CellDetector, image: Tensor) -> None:
    with pytest.raises(ValueError, match="targets: expected one per image in training mode"):
        model.train()([image])
    with pytest.raises(ValueError, match=r"output_sizes: expected 1 .* got 0"):
        model.eval()([image], output_sizes=[])


@torch.no_grad()
def test_it_is_prepared_for_inference(model: CellDetector, image: Tensor) -> None:
    prepared = prepare(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())
    assert _sorted(prepared([image])[0]) == EXPECTED


def test_its_costs_are_counted() -> None:
    count = count_model(CellDetector(["red", "blue"]))
    cells = 4 * 6
    assert count.by_part == {"backbone": cells * 8 * 27, "head": cells * 2 * 8}


def test_its_parts_are_its_children(model: CellDetector) -> None:
    assert [part.label for part in model.parts()] == ["input", "backbone", "head"]
    assert all(callable(getattr(part.module, part.method)) for part in model.parts())
