from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.engine.predict import Predictor, Resize
from tests.engine.tiny import TinyDetector, new_detector, sample


def _read(path: Path) -> Tensor:
    return sample(int(path.stem)).image


def _resize(image: Tensor, shorter: int, longer: int) -> Tensor:
    assert longer == 16
    factor = shorter // image.shape[1]
    return image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


@pytest.fixture
def detector() -> TinyDetector:
    return new_detector()


@pytest.fixture
def predictor(detector: TinyDetector) -> Predictor:
    return Predictor(detector, torch.device("cpu"), _read, _resize)


def test_every_kind_of_image_gives_the_same(predictor: Predictor) -> None:
    tensor = sample(3).image
    kinds = ["3.jpg", Path("3.jpg"), tensor, tensor.permute(1, 2, 0).numpy()]
    found = predictor.predict(kinds, batch_size=3)
    single = predictor.predict(tensor)
    assert single.boxes[0].tolist() == [0, 0, 10, 6]
    assert all(torch.equal(one.scores, single.scores) for one in found)


@pytest.mark.parametrize(
    ("resize", "seen"), [("default", (6, 10)), (None, (6, 10)), ((12, 16), (12, 20))], ids=["default", "keep", "given"]
)
def test_the_network_sees_the_wanted_size(
    predictor: Predictor, detector: TinyDetector, resize: Resize, seen: tuple[int, int]
) -> None:
    found = predictor.predict(sample(0).image, resize)
    assert detector.given == [seen]
    assert found.boxes[0].tolist() == [0, 0, 10, 6]


def test_the_default_is_the_test_size_of_the_network(predictor: Predictor, detector: TinyDetector) -> None:
    detector.test_size = (18, 16)
    predictor.predict(sample(0).image)
    assert detector.given == [(18, 30)]


@pytest.mark.parametrize(("threshold", "count"), [(None, 2), (0.0, 2), (0.4, 1), (1.0, 0)])
def test_the_threshold(predictor: Predictor, detector: TinyDetector, threshold: float | None, count: int) -> None:
    torch.nn.init.zeros_(detector.layer.weight)
    detector.layer.bias.data = torch.tensor([0.7, 0.3]).log()
    assert len(predictor.predict(sample(0).image, score_threshold=threshold)) == count


def test_a_threshold_below_the_networks_own_finds_more(predictor: Predictor, detector: TinyDetector) -> None:
    torch.nn.init.zeros_(detector.layer.weight)
    detector.layer.bias.data = torch.tensor([0.7, 0.3]).log()
    detector.score_threshold = 0.5
    assert len(predictor.predict(sample(0).image)) == 1
    assert len(predictor.predict(sample(0).image, score_threshold=0.1)) == 2
    assert detector.score_threshold == 0.5


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((4, 4), np.uint8), {}, r"RGB array \[H, W, 3\], got shape \[4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), {}, "uint8 in 0..255, got .*float32"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), {}, r"RGB tensor \[3, H, W\]"),
        ([3.5], {}, "paths, arrays or tensors, got float"),
        (["0.jpg"], {"batch_size": 0}, "batch_size: expected 1 or more"),
        ("0.jpg", {"resize": "big"}, "resize: expected 'default'"),
        ("0.jpg", {"resize": (9, 8)}, "resize: expected 'default'"),
        ("0.jpg", {"score_threshold": 50}, r"a number in \[0, 1\], got 50"),
    ],
    ids=["grey", "float", "layout", "number", "batch", "word", "order", "percent"],
)
def test_mistakes_are_named(predictor: Predictor, image: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(image, **options)  # type: ignore[call-overload]  # wrong on purpose
