from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.engine.distributed import World
from dcn.engine.segment import Segmenter, comparable, evaluate_maps, segment, segment_samples, spans
from dcn.metrics import MeanIoU
from dcn.structures import Sample, SegmentationMap, Target
from dcn.tta import TTA

CPU = torch.device("cpu")


@dataclass
class _Batch:
    pixels: Tensor


class _Network(nn.Module):
    """Stride 16 like the real ones, with a field of view of 48 pixels: means of 16x16 cells, then a 3x3 convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.classes: tuple[str, ...] = ("a", "b", "c", "d")
        self.test_size = (32, 64)
        self.seen: list[tuple[int, int]] = []

    def preprocess(self, images: list[Tensor]) -> _Batch:
        return _Batch(torch.stack([image.float() / 64 - 2 for image in images]))

    def scores(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        self.seen.append((height, width))
        cells = F.avg_pool2d(pixels, 16, ceil_mode=True, count_include_pad=False)
        return F.interpolate(self.layer(cells), scale_factor=16, mode="nearest")[:, :, :height, :width]


@pytest.fixture
def network() -> _Network:
    return _Network().eval()


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
    covered = [place for _, _, first, last in parts for place in range(first, last)]
    assert covered == list(range(length))
    for start, stop, first, last in parts:
        assert start % 16 == 0
        assert start <= first < last <= stop <= length
        assert stop - start < window + 16
        # Away from the ends of the side half of the overlap lies between a pixel and the window's edge.
        assert first == 0 or first - start >= overlap // 2
        assert last == length or stop - last >= overlap // 2


@pytest.mark.parametrize("size", [(96, 160), (93, 171)], ids=["whole-cells", "odd"])
def test_windows_see_what_the_whole_image_shows(network: _Network, size: tuple[int, int]) -> None:
    """With an overlap of twice the reach of the network (24 pixels and the cell it lies in) nothing changes."""
    image = _image(*size)
    whole = segment(network, image, TTA())
    network.seen.clear()
    parts = segment(network, image, TTA(window=(80, 96), overlap=64))
    assert torch.equal(parts, whole)
    assert whole.unique().numel() > 1
    assert len(network.seen) >= 3
    assert max(height for height, _ in network.seen) < 96


def test_a_window_larger_than_the_image_is_the_image(network: _Network) -> None:
    segment(network, _image(48, 64), TTA(window=(256, 256)))
    assert network.seen == [(48, 64)]


def test_views_are_averaged(network: _Network) -> None:
    image = _image(64, 96)
    config = TTA(scales=(0.5, 1.0), flip=True)
    pixels = network.preprocess([image]).pixels
    total = torch.zeros(1, 4, 64, 96)
    for size in ((32, 48), (64, 96)):
        seen = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        for view in (seen, seen.flip(3)):
            shares = network.scores(view).softmax(1)
            shares = shares if view is seen else shares.flip(3)
            total += F.interpolate(shares, (64, 96), mode="bilinear", align_corners=False)
    assert torch.equal(segment(network, image, config), total.argmax(1)[0])


def test_a_mirrored_image_gives_a_mirrored_map(network: _Network) -> None:
    image, config = _image(64, 96), TTA(flip=True)
    assert torch.equal(segment(network, image.flip(2), config), segment(network, image, config).flip(1))


def _samples(network: _Network) -> list[Sample]:
    """Images of two sizes; the annotation has the size of the file, half of it is right and a part ignored."""
    samples = []
    for index, (height, width) in enumerate([(64, 96), (48, 48)]):
        image = _image(height, width, index)
        labels = SegmentationMap(segment(network, image, TTA())).resized((2 * height, 3 * width)).labels
        labels[: height // 2] = 255
        labels[-height:, : width // 2] = index
        samples.append(Sample(image, SegmentationMap(labels, f"image{index}")))
    return samples


@pytest.mark.parametrize("compare_at", ["annotation", "prediction"])
def test_figures_follow_the_protocol(network: _Network, compare_at: Any) -> None:
    """Against a count in NumPy with its own resizing: the prediction (Cityscapes) or the annotation (VOC) moves."""
    samples = _samples(network)
    right, union = np.zeros(4), np.zeros(4)
    for sample in samples:
        found = segment(network, sample.image, TTA()).numpy()
        assert isinstance(sample.target, SegmentationMap)
        truth = sample.target.labels.numpy()
        small, large = (found, truth) if compare_at == "annotation" else (truth, found)
        rows = [int(np.floor(y * small.shape[0] / large.shape[0])) for y in range(large.shape[0])]
        columns = [int(np.floor(x * small.shape[1] / large.shape[1])) for x in range(large.shape[1])]
        moved = small[np.ix_(rows, columns)]
        found, truth = (moved, truth) if compare_at == "annotation" else (found, moved)
        for label in range(4):
            counted = truth != 255
            right[label] += ((found == label) & (truth == label)).sum()
            union[label] += (((found == label) | (truth == label)) & counted).sum()
    metric = MeanIoU(4)
    figures = evaluate_maps(segment_samples(network, [samples], CPU, TTA()), metric, World(CPU), compare_at)
    assert figures["mIoU"] == pytest.approx(np.mean(right / np.maximum(union, 1)), abs=1e-12)
    assert 0.1 < figures["mIoU"] < 1


def test_equal_sizes_are_left_alone() -> None:
    pair = SegmentationMap(torch.eye(3).long()), SegmentationMap(torch.ones(3, 3).long())
    prediction, annotation = comparable(*pair, "annotation")
    assert prediction is pair[0].labels
    assert annotation is pair[1].labels


def test_the_mode_comes_back_and_boxes_are_refused(network: _Network) -> None:
    network.train()
    assert len(list(segment_samples(network, [_samples(network)], CPU, TTA()))) == 2
    assert network.training
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (16, 16))
    with pytest.raises(ValueError, match="expected label maps to judge by, got Target"):
        next(segment_samples(network, [[Sample(_image(16, 16), target)]], CPU, TTA()))


def _halve(image: Tensor, shorter: int, longer: int) -> Tensor:
    assert (shorter, longer) == (32, 64)
    return image[:, ::2, ::2]


def test_prediction_has_the_size_of_the_image(network: _Network, tmp_path: Path) -> None:
    image = _image(64, 96)
    predictor = Segmenter(network, CPU, lambda path: image, _halve)
    found = predictor.predict([image, tmp_path / "a.png", image.permute(1, 2, 0).numpy()])
    wanted = segment(network, image[:, ::2, ::2], TTA()).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert [torch.equal(one.labels, wanted) for one in found] == [True] * 3
    whole = predictor.predict(image, None)
    assert torch.equal(whole.labels, segment(network, image, TTA()))
    with pytest.raises(ValueError, match="resize: expected 'default', None or"):
        predictor.predict(image, (3, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (1.0, 0.0)}, "scales: expected positive factors"),
        ({"window": (128, 256), "overlap": 120}, "window: expected sides at least 16 pixels longer than overlap=120"),
    ],
    ids=["zero", "overlap"],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TTA(**options)
