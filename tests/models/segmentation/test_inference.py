from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.models.preprocess import Preprocess
from dcn.models.segmentation.inference import scale_factors, segment, spans
from dcn.models.segmentation.model import SegmentationModel
from dcn.tta import TTA


class _Cells(SegmentationModel):
    """Stride 16 like the real ones, with a field of view of 48 pixels: means of 16x16 cells, then a 3x3 convolution."""

    def __init__(self) -> None:
        super().__init__(Preprocess(divisor=1), classes=("a", "b", "c", "d"), test_size=(32, 64))
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.seen: list[tuple[int, int]] = []

    def scores(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        self.seen.append((height, width))
        cells = F.avg_pool2d(pixels, 16, ceil_mode=True, count_include_pad=False)
        scores: Tensor = F.interpolate(self.layer(cells), scale_factor=16, mode="nearest")
        return scores[:, :, :height, :width]


@pytest.fixture
def model() -> _Cells:
    return _Cells().eval()


def _image(height: int, width: int, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (3, -(-height // 16), -(-width // 16)), dtype=np.uint8)
    return torch.from_numpy(values.repeat(16, 1).repeat(16, 2)[:, :height, :width].copy())


@pytest.mark.parametrize(
    ("length", "window", "overlap"),
    [(100, 100, 32), (100, 64, 32), (257, 64, 0), (1000, 176, 75), (65, 64, 32)],
    ids=["one", "two", "no-overlap", "odd", "one-pixel-more"],
)
def test_windows_cover_a_side_once(length: int, window: int, overlap: int) -> None:
    parts = spans(length, window, overlap)
    assert [pixel for _, _, first, last in parts for pixel in range(first, last)] == list(range(length))
    for start, stop, first, last in parts:
        assert start % 16 == 0
        assert start <= first < last <= stop <= length
        assert stop - start < window + 16
        # Away from the ends of the side half of the overlap lies between a pixel and the window's edge.
        assert first == 0 or first - start >= overlap // 2
        assert last == length or stop - last >= overlap // 2


@pytest.mark.parametrize("size", [(96, 160), (93, 171)], ids=["whole-cells", "odd"])
@torch.no_grad()
def test_windows_give_the_result_of_the_whole_image(model: _Cells, size: tuple[int, int]) -> None:
    """With an overlap of twice the reach of the model (24 pixels and the cell it lies in) nothing changes."""
    image = _image(*size)
    whole = segment(model, image, TTA())
    model.seen.clear()
    assert torch.equal(segment(model, image, TTA(window=(80, 96), overlap=64)), whole)
    assert whole.unique().numel() > 1
    assert len(model.seen) >= 3
    assert max(height for height, _ in model.seen) < 96


@torch.no_grad()
def test_a_window_larger_than_the_image_is_the_image(model: _Cells) -> None:
    segment(model, _image(48, 64), TTA(window=(256, 256)))
    assert model.seen == [(48, 64)]


@pytest.mark.parametrize(
    "scales", [(0.5, 1.0), ((32, 48), (64, 96)), (0.5, (80, 96))], ids=["factors", "pairs", "mixed"]
)
@torch.no_grad()
def test_views_are_averaged(model: _Cells, scales: tuple[Any, ...]) -> None:
    image = _image(64, 96)
    pixels = model.preprocess([image]).pixels
    total = torch.zeros(1, 4, 64, 96)
    for size in ((32, 48), (64, 96)):
        resized = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        for view in (resized, resized.flip(3)):
            shares = model.scores(view).softmax(1)
            shares = shares if view is resized else shares.flip(3)
            total += F.interpolate(shares, (64, 96), mode="bilinear", align_corners=False)
    assert torch.equal(segment(model, image, TTA(scales=scales, flip=True)), total.argmax(1)[0])


@torch.no_grad()
def test_a_flipped_image_gives_a_flipped_result(model: _Cells) -> None:
    image, tta = _image(64, 96), TTA(flip=True)
    assert torch.equal(segment(model, image.flip(2), tta), segment(model, image, tta).flip(1))


def test_pairs_become_factors_of_the_whole_image() -> None:
    assert scale_factors((), (40, 80)) == (1.0,)
    assert scale_factors((0.5, (80, 400), (80, 120)), (40, 80)) == (0.5, 2.0, 1.5)
