from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dcn import boxes

GOLDEN = np.load(Path(__file__).parent / "golden" / "utils.npz")


def _golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def _random(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 80
    return torch.cat((corner, corner + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 60 + 0.5), 1)


def _naive_iou(first: list[float], second: list[float], offset: int) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + offset
    height = min(first[3], second[3]) - max(first[1], second[1]) + offset
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0] + offset) * (b[3] - b[1] + offset) for b in (first, second)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize("offset", [0, 1])
def test_iou_equals_the_loop(offset: int) -> None:
    first, second = _random(7), _random(5, 1)
    expected = [[_naive_iou(a, b, offset) for b in second.tolist()] for a in first.tolist()]
    torch.testing.assert_close(boxes.iou(first, second, offset), torch.tensor(expected, dtype=torch.float64))


def test_iou_of_the_original_code() -> None:
    got = boxes.iou(_golden("ex"), _golden("gt"), 1)
    torch.testing.assert_close(got, _golden("overlaps"), rtol=0, atol=1e-9)


def test_iou_of_empty_boxes_is_zero() -> None:
    assert boxes.iou(torch.zeros(2, 4), torch.zeros(1, 4)).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=["none-left", "none-right"])
def test_iou_without_boxes(shape: tuple[int, int]) -> None:
    assert boxes.iou(torch.zeros(shape[0], 4), torch.zeros(shape[1], 4)).shape == shape


def test_encode_of_the_original_code() -> None:
    got = boxes.encode(_golden("ex"), _golden("gt"), pixel_offset=1)
    torch.testing.assert_close(got, _golden("targets"), rtol=0, atol=1e-9)


def test_decode_and_clip_of_the_original_code() -> None:
    deltas = _golden("deltas").unflatten(1, (2, 4))
    got = boxes.decode(_golden("ex")[:, None], deltas, pixel_offset=1, max_log_ratio=None)
    torch.testing.assert_close(got.flatten(1), _golden("decoded"), rtol=0, atol=1e-9)
    height, width = (int(_golden("clipped")[:, i::4].max()) + 1 for i in (3, 2))
    torch.testing.assert_close(boxes.clip(got, (height, width), 1).flatten(1), _golden("clipped"), rtol=0, atol=1e-9)


@pytest.mark.parametrize("offset", [0, 1])
def test_decode_inverts_encode(offset: int) -> None:
    references, reference, stds = _random(20), _random(20, 1), (0.1, 0.1, 0.2, 0.2)
    deltas = boxes.encode(references, reference, stds=stds, pixel_offset=offset)
    got = boxes.decode(references, deltas, stds=stds, pixel_offset=offset, max_log_ratio=None)
    torch.testing.assert_close(got, reference)


def test_encode_by_hand() -> None:
    # From a 10 x 20 box at centre (5, 10) to a 20 x 10 box at centre (15, 5).
    got = boxes.encode(torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 25, 10]]), stds=(0.1, 0.1, 0.2, 0.2))
    log2 = float(np.log(2))
    torch.testing.assert_close(got, torch.tensor([[10.0, -2.5, log2 / 0.2, -log2 / 0.2]]))


def test_decode_limits_growth() -> None:
    got = boxes.decode(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 100, -100]]))
    side = torch.tensor([1000 / 16 * 2, 16 / 1000 * 2])
    torch.testing.assert_close(boxes.sizes(got)[0], side)


def test_clip_keeps_the_last_edge() -> None:
    got = boxes.clip(torch.tensor([[-3.0, -4, 900, 700]]), (480, 640))
    assert got.tolist() == [[0, 0, 640, 480]]
    assert boxes.clip(got, (480, 640), 1).tolist() == [[0, 0, 639, 479]]


def test_scale_uses_both_axes() -> None:
    got = boxes.scale(torch.tensor([[2.0, 3, 4, 6]]), (10, 20), (20, 10))
    assert got.tolist() == [[1, 6, 2, 12]]


def test_formats_round_trip() -> None:
    box = _random(4)
    torch.testing.assert_close(boxes.from_xywh(boxes.to_xywh(box)), box)
    torch.testing.assert_close(boxes.from_inclusive(boxes.to_inclusive(box)), box)
    assert boxes.to_xywh(torch.tensor([[1.0, 2, 4, 8]])).tolist() == [[1, 2, 3, 6]]
    assert boxes.from_inclusive(torch.tensor([[1.0, 2, 4, 8]])).tolist() == [[1, 2, 5, 9]]


@pytest.mark.parametrize("pixel_offset", [0, 1])
def test_a_batch_is_clipped_image_by_image(pixel_offset: int) -> None:
    generator = torch.Generator().manual_seed(0)
    many = torch.rand(2, 5, 3, 4, generator=generator) * 200 - 50
    sizes = [(40, 90), (100, 30)]
    actual = boxes.clip_batch(many, torch.tensor(sizes, dtype=torch.float32), pixel_offset)
    for one, given, size in zip(actual, many, sizes, strict=True):
        assert torch.equal(one, boxes.clip(given, size, pixel_offset))
