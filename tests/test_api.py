from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dcn
from dcn.api import make_predictor, with_testing
from dcn.class_names import COCO_CLASSES
from dcn.engine import save_weights
from dcn.models import build
from dcn.tta import TTA

SMALL: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "fpn_channels": 16, "fc_channels": 16}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(3)
    save_weights(path, build("faster_rcnn_r18_fpn", ("cat", "dog"), **SMALL), "faster_rcnn_r18_fpn", SMALL)
    return path


def test_a_weights_file_knows_its_network(weights: Path) -> None:
    network = dcn.load(weights, device="cpu", optimize=False)
    torch.manual_seed(3)
    expected = build("faster_rcnn_r18_fpn", ("cat", "dog"), **SMALL).state_dict()
    assert network.classes == ("cat", "dog")
    assert not network.model.training
    assert all(torch.equal(value, expected[name]) for name, value in network.model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("faster_rcnn_r18_fpm",), "did you mean 'faster_rcnn_r18_fpn'"),
        (("no-such-thing.pth",), "neither a weights file, a run folder nor the name"),
        (("WEIGHTS", "WEIGHTS"), "has its own weights"),
        (("faster_rcnn_r18_fpn", "WEIGHTS"), "misshapen: backbone"),
    ],
    ids=["typo", "missing", "twice", "other-options"],
)
def test_what_cannot_be_loaded_is_named(weights: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcn.load(*(str(weights) if word == "WEIGHTS" else word for word in arguments))


def test_a_network_without_weights_warns() -> None:
    with pytest.warns(UserWarning, match="no weights given"):
        network = dcn.load("faster_rcnn_r18_fpn", device="cpu")
    assert network.classes == COCO_CLASSES


def test_testing_options_reach_the_network() -> None:
    torch.manual_seed(0)
    model = build("faster_rcnn_r18_fpn", ["cat", "dog"], score_threshold=0.2, test_size=(64, 96), **SMALL).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    plain = make_predictor(model, torch.device("cpu")).predict(image)
    assert with_testing(model, TTA()) is model
    # A class whose threshold no score reaches is gone; one more detection is not wanted.
    testing = TTA(max_per_image=3, class_thresholds={"dog": 1.0})
    found = make_predictor(with_testing(model, testing), torch.device("cpu")).predict(image)
    cats = plain.select((plain.labels == 0).nonzero()[:3, 0])
    torch.testing.assert_close(found.scores, cats.scores)
    torch.testing.assert_close(found.boxes, cats.boxes)
    with pytest.raises(ValueError, match="does not know \\['cow'\\]"):
        with_testing(model, TTA(class_thresholds={"cow": 0.5}))


@pytest.mark.parametrize("name", ["faster_rcnn_r18_fpn_dconv_c3-c5", "mask_rcnn_r18_fpn"])
def test_an_optimized_network_finds_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    options: dict[str, Any] = {**SMALL, "score_threshold": 0.2, "test_size": (64, 96), "test_proposals": (50, 30)}
    save_weights(path, build(name, ("cat", "dog"), **options), name, options)
    image = torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8)
    plain = dcn.load(path, device="cpu", optimize=False).predict(image)
    network = dcn.load(path, device="cpu")
    found = network.predict(image)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.model.modules())
    assert len(plain) > 0
    torch.testing.assert_close(found.boxes, plain.boxes, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found.scores, plain.scores, rtol=1e-4, atol=1e-5)
    half = dcn.load(path, device="cpu", precision="bfloat16").predict(image)
    assert half.scores.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa: the scores of two classes near 1/3 move by less than one in a hundred.
    torch.testing.assert_close(half.scores.max(), plain.scores.max(), rtol=0, atol=0.01)


def test_precision_needs_the_optimized_network(weights: Path) -> None:
    with pytest.raises(ValueError, match="precision: bfloat16 needs optimize=True"):
        dcn.load(weights, device="cpu", optimize=False, precision="bfloat16")
    with pytest.raises(ValueError, match="precision: expected one of float32"):
        dcn.load(weights, device="cpu", precision="int8")  # type: ignore[arg-type]  # the point of the test
