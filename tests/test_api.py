from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dcn
from dcn.api import make_predictor, with_testing
from dcn.class_names import COCO_CLASSES
from dcn.engine import InferenceConfig, save_weights
from dcn.models import build

SMALL: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "fpn_channels": 16, "fc_channels": 16}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(3)
    save_weights(path, build("faster_rcnn_r18_fpn", ("cat", "dog"), **SMALL), "faster_rcnn_r18_fpn", SMALL)
    return path


def test_a_weights_file_knows_its_network(weights: Path) -> None:
    network = dcn.load(weights, device="cpu")
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
    assert with_testing(model, InferenceConfig()) is model
    # A class whose threshold no score reaches is gone; one more detection is not wanted.
    testing = InferenceConfig(max_per_image=3, class_thresholds={"dog": 1.0})
    found = make_predictor(with_testing(model, testing), torch.device("cpu")).predict(image)
    cats = plain.select((plain.labels == 0).nonzero()[:3, 0])
    torch.testing.assert_close(found.scores, cats.scores)
    torch.testing.assert_close(found.boxes, cats.boxes)
    with pytest.raises(ValueError, match="does not know \\['cow'\\]"):
        with_testing(model, InferenceConfig(class_thresholds={"cow": 0.5}))
