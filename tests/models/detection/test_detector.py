from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn.models.detection import Detector
from dcn.models.detection.merging import MergeRule, merge_detections
from dcn.models.detection.original.class_aware_rpn import class_aware_rpn
from dcn.models.detection.original.fpn import original_fpn
from dcn.models.detection.original.rfcn import rfcn
from dcn.models.options import make_model
from dcn.structures import Target
from tests.models.detection.conftest import tiny

_SMALL: dict[str, Any] = {"depth": 18, "width": 0.125, "stem_channels": 8, "norm": "train", "frozen_stages": 0}

NETWORKS: dict[str, Callable[[], Detector]] = {
    "faster": partial(tiny, score_threshold=0.2),
    "cascade": partial(tiny, cascade=True, score_threshold=0.2),
    "rfcn": partial(
        make_model, rfcn, 2, head_channels=16, rpn_channels=16, anchor_scales=(2,), proposals=(200, 30), **_SMALL
    ),
    "fpn": partial(
        make_model, original_fpn, 2, fpn_channels=16, fc_channels=32, rpn_channels=16, proposals=(200, 30), **_SMALL
    ),
    "class_aware": partial(
        make_model, class_aware_rpn, 2, head_channels=16, rpn_channels=16, anchor_scales=(2,), candidates=50, **_SMALL
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_pre_nms_detections_suppressed_are_those_of_the_model(name: str, picture: Tensor) -> None:
    """Merging one pass with the model's own limits is its own post-processing."""
    torch.manual_seed(0)
    model: Any = NETWORKS[name]().eval()
    images, sizes = [picture, picture[:, :40, :50]], [(64, 96), (80, 100)]
    with torch.no_grad():
        expected = model(images, output_sizes=sizes)
    limits = model.limits
    rule = MergeRule(iou=limits.nms_iou, max_per_image=limits.max_detections)
    raw = model.pre_nms(images, sizes, model.score_threshold)
    assert sum(map(len, raw)) > sum(map(len, expected)) > 0
    for result, size, reference in zip(raw, sizes, expected, strict=True):
        merged = merge_detections([result], size, rule)
        torch.testing.assert_close(merged.boxes, reference.boxes[: len(merged)], atol=1e-4, rtol=0)
        torch.testing.assert_close(merged.scores, reference.scores[: len(merged)], atol=1e-6, rtol=0)
        assert torch.equal(merged.labels, reference.labels[: len(merged)])
        # The original keeps ties with the last of its detections, beyond the limit.
        assert (reference.scores[len(merged) :] == merged.scores[-1]).all()


def test_masks_for_given_detections_are_those_of_the_network(picture: Tensor) -> None:
    torch.manual_seed(0)
    model = tiny(masks=True, score_threshold=0.2).eval()
    with torch.no_grad():
        result = model([picture], output_sizes=[(32, 48)])
        assert isinstance(result, list)
        bare = [type(one)(one.boxes, one.scores, one.labels) for one in result]
        again = model.add_masks([picture], bare, [(32, 48)])
    assert result[0].masks is not None
    assert again[0].masks is not None
    assert result[0].masks.any()
    assert torch.equal(result[0].masks, again[0].masks)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_parts_are_methods_of_modules_of_the_model(name: str, training: bool) -> None:
    model = NETWORKS[name]().train(training)
    parts = model.parts()
    modules = set(model.modules())
    assert all(part.module in modules and callable(getattr(part.module, part.method)) for part in parts)
    assert {"input", "backbone", "neck", "proposals"} <= {part.label for part in parts}
    assert len({(id(part.module), part.method) for part in parts}) == len(parts)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_detector_answers(name: str) -> None:
    model = NETWORKS[name]()
    assert model.task == "detection"
    assert not model.has_masks
    assert 0 < model.limits.nms_iou < 1
    assert model.limits.max_detections == 100
    assert tiny(masks=True).has_masks


def test_wrong_calls(picture: Tensor, target: Target) -> None:
    model = tiny()
    with pytest.raises(ValueError, match=r"targets: expected one per image in training mode \(1 images\), got None"):
        model.train()([picture])
    with pytest.raises(ValueError, match=r"\(1 images\), got 2"):
        model([picture], [target, target])
    with pytest.raises(ValueError, match="output_sizes: expected 1"):
        model.eval()([picture], output_sizes=[(1, 1), (2, 2)])


def _given(labels: Any = (0,), size: Any = (48, 64)) -> Target:
    return Target(torch.tensor([[4.0, 4, 30, 20]]), torch.tensor(labels), size)


IMAGE = torch.zeros(3, 48, 64, dtype=torch.uint8)
WRONG: dict[str, tuple[Any, Any, str]] = {
    "dictionary": (
        [IMAGE],
        [{"boxes": 1}],
        r"targets\[0\]: expected a dcn.structures.Target, got dict; write Target\(boxes=",
    ),
    "label from 1": ([IMAGE], [_given((2,))], r"targets\[0\]: expected labels in 0..1, the index .* got \[2\]"),
    "background": ([IMAGE], [_given((-1,))], r"targets\[0\]: expected labels in 0..1, the index .* got \[-1\]"),
    "boxes of the original": (
        [IMAGE],
        [_given(size=(96, 128))],
        r"targets\[0\]: expected boxes for .* \[48, 64\], got size",
    ),
    "one image": (
        IMAGE,
        [_given()] * 3,
        r"images: expected a list of tensors \[3, height, width\], got one tensor \[3, 48",
    ),
    "array": ([IMAGE.numpy()], [_given()], r"images\[0\]: expected a uint8 RGB tensor .* got ndarray; dcn.load takes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_training_loop_gives_by_mistake_is_named(name: str) -> None:
    images, targets, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        tiny().train()(images, targets)


def test_a_batch_tensor_is_a_list_of_images() -> None:
    model = tiny().eval()
    batch = torch.stack([IMAGE, IMAGE + 9])
    for one, other in zip(model(batch), model(list(batch)), strict=True):
        assert torch.equal(one.boxes, other.boxes)
