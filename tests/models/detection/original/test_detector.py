from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from dcn.models.detection.original.class_aware_rpn import class_aware_rpn
from dcn.models.detection.original.faster_rcnn import original_faster_rcnn
from dcn.models.detection.original.fpn import original_fpn
from dcn.models.detection.original.rfcn import rfcn
from dcn.models.detection.original.specs import RegionTraining
from dcn.models.options import make_model
from dcn.structures import Detections, Target

_TINY: dict[str, Any] = {"depth": 18, "width": 0.125, "stem_channels": 8, "norm": "train", "frozen_stages": 0}
_ANCHORS: dict[str, Any] = {"anchor_scales": (1, 2, 4), "rpn_channels": 16}

# Every network of the original with its own rules, small and trainable from scratch.
NETWORKS: dict[str, Callable[[], Any]] = {
    "rfcn": partial(make_model, rfcn, 2, head_channels=16, hardest=16, proposals=(200, 30), **_ANCHORS, **_TINY),
    "rfcn_dcn": partial(
        make_model,
        rfcn,
        2,
        head_channels=16,
        hardest=16,
        proposals=(200, 30),
        deform_layers=1,
        deform_pool=True,
        **_ANCHORS,
        **_TINY,
    ),
    "rcnn": partial(
        make_model,
        original_faster_rcnn,
        2,
        head_channels=16,
        fc_channels=32,
        proposals=(200, 30),
        rois_per_image=32,
        **_ANCHORS,
        **_TINY,
    ),
    "rcnn_dcn": partial(
        make_model,
        original_faster_rcnn,
        2,
        head_channels=16,
        fc_channels=32,
        proposals=(200, 30),
        rois_per_image=32,
        deform_layers=2,
        deform_pool=True,
        **_ANCHORS,
        **_TINY,
    ),
    "fpn_dcn": partial(
        make_model,
        original_fpn,
        2,
        fpn_channels=16,
        fc_channels=32,
        proposals=(200, 30),
        hardest=16,
        deform_layers=("c4.1", "c5"),
        deform_pool=True,
        rpn_channels=16,
        anchor_scale=4.0,
        **_TINY,
    ),
    "rpn_dcn": partial(
        make_model, class_aware_rpn, 2, head_channels=16, deform_layers=1, candidates=300, **_ANCHORS, **_TINY
    ),
}


def _make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return NETWORKS[name](**options)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_trainable_parameter(name: str, picture: Tensor, target: Target) -> None:
    model = _make(name).train()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "offset" in parameter_name:
                parameter.normal_(0, 0.05)  # at 0 some derivatives of the bilinear samples vanish
    # Sampling and mining may leave out the coarsest level, or all objects.
    model.rpn_head.samples = 10_000
    if name.startswith(("rfcn", "fpn")):
        model.hardest = 10_000
    losses = model([picture, picture.flip(2)], [target, target])
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    # A pyramid level without regions has no gradient for its offsets.
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert all(".pool.levels." in n for n in silent), silent


@pytest.mark.parametrize("name", ["rfcn_dcn", "fpn_dcn"])
def test_frozen_parameters_stay(name: str, picture: Tensor, target: Target) -> None:
    model = _make(name, norm="frozen", frozen_stages=1).train()
    frozen = {n: p.clone() for n, p in model.state_dict().items() if "bn" in n or n.startswith("backbone.layer1")}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    torch.stack(list(model([picture], [target]).values())).sum().backward()
    optimizer.step()
    after = model.state_dict()
    assert len(frozen) > 20
    assert all(torch.equal(after[n], value) for n, value in frozen.items())


def check_that_a_picture_is_learned(name: str, steps: int, picture: Tensor, target: Target) -> None:
    model = _make(name).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * 2 // 3])
    for _ in range(steps):
        total = torch.stack(list(model([picture], [target]).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
    # The network has seen one picture: it is evaluated with that picture's statistics, as in training.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    with torch.no_grad():
        result: Detections = model.eval()([picture])[0]
    for label, box in zip(target.labels.tolist(), target.boxes, strict=True):
        best = result.boxes[result.labels == label][0]
        low, high = torch.maximum(best[:2], box[:2]), torch.minimum(best[2:], box[2:])
        overlap = (high - low).clamp(min=0).prod()
        areas = (best[2:] - best[:2]).prod() + (box[2:] - box[:2]).prod()
        assert overlap / (areas - overlap) > 0.6


def test_a_picture_is_learned(picture: Tensor, target: Target) -> None:
    """The others, which need more steps, are in ``tests/slow``."""
    check_that_a_picture_is_learned("rfcn", 75, picture, target)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_does_not_see_the_others(name: str, picture: Tensor) -> None:
    model = _make(name).eval()
    model.score_threshold = 0.0
    other = picture.flip(1)[:, :50, :70]
    with torch.no_grad():
        alone = [model([image])[0] for image in (picture, other, picture.flip(2))]
        together = model([picture, other, picture.flip(2)])
    for first, second in zip(alone, together, strict=True):
        assert len(first) > 0
        torch.testing.assert_close(first.scores, second.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(first.boxes, second.boxes, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["rfcn", "rpn_dcn"])
def test_boxes_in_pixels_of_the_original_image(name: str, picture: Tensor) -> None:
    """Scaled, then suppressed with +1, as in the original: a box twice as large less the last pixel."""
    model = _make(name).eval()
    model.score_threshold, model.max_detections = 0.0, 5
    with torch.no_grad():
        small, large = model([picture])[0], model([picture], output_sizes=[(128, 192)])[0]
    expected = (small.boxes[0] - torch.tensor([0.0, 0, 1, 1])) * 2 + torch.tensor([0.0, 0, 1, 1])
    torch.testing.assert_close(large.boxes[0], expected)


@pytest.mark.parametrize("name", ["rfcn", "rpn_dcn"])
def test_wrong_calls(name: str, picture: Tensor, target: Target) -> None:
    model = _make(name)
    with pytest.raises(ValueError, match=r"targets: expected one per image in training mode \(1 images\), got None"):
        model.train()([picture])
    with pytest.raises(ValueError, match=r"targets: expected one per image .* got 2"):
        model([picture], [target, target])
    with pytest.raises(ValueError, match=r"output_sizes: expected 1 \(one per image\), got 2"):
        model.eval()([picture], output_sizes=[(1, 1), (2, 2)])


@pytest.mark.parametrize("name", NETWORKS)
def test_pictures_without_objects(name: str, picture: Tensor) -> None:
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (64, 96))
    losses = _make(name).train()([picture], [nothing])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_rpn_bbox"] == 0


def test_padding_of_the_pyramid_is_black_and_counts(picture: Tensor) -> None:
    """Padding is black before the means are subtracted, and boxes may lie in it."""
    model = _make("fpn_dcn")
    batch = model.preprocess([picture[:, :50, :70]])
    assert batch.pixels.shape == (1, 3, 64, 96)
    torch.testing.assert_close(batch.pixels[0, :, 60, 90], -torch.tensor([123.15, 115.90, 103.06]))
    assert model._sizes(batch) == [(64, 96)]
    plain = _make("rfcn")
    assert plain._sizes(plain.preprocess([picture[:, :50, :70]])) == [(50, 70)]


def test_learning_rates_of_the_original() -> None:
    assert _make("rfcn").lr_multipliers == {"roi_head.reduce.weight": 3.0, "roi_head.reduce.bias": 3.0}
    assert set(_make("fpn_dcn").lr_multipliers.values()) == {0.01}
    for name in NETWORKS:
        model = _make(name)
        assert set(model.lr_multipliers) <= {n for n, _ in model.named_parameters()}
    assert len(_make("fpn_dcn").lr_multipliers) == 8
    assert len(_make("rcnn_dcn").lr_multipliers) == 2
    assert not _make("rcnn").lr_multipliers


def test_a_second_stage_needs_a_number_of_regions() -> None:
    with pytest.raises(ValueError, match="rois_per_image, hardest: expected a number for at least one"):
        RegionTraining(rois_per_image=None, hardest=None)


def test_a_single_stage_trains_anchors_that_stick_out_of_the_image() -> None:
    """All of them do here: with the rule of a first stage nothing would be learned."""
    torch.manual_seed(0)
    model = make_model(class_aware_rpn, 2, head_channels=16, rpn_channels=16, anchor_scales=(16,), **_TINY)
    target = Target(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([1]), size=(96, 96))
    losses = model([torch.zeros(3, 96, 96, dtype=torch.uint8)], [target])
    assert losses["loss_rpn_cls"] > 0.5
    assert losses["loss_rpn_bbox"] > 0


def test_a_single_stage_labels_every_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = make_model(class_aware_rpn, 2, head_channels=16, rpn_channels=16, anchor_scales=(1, 2, 4), **_TINY)
    model.rpn_head.samples = 10_000  # more than there are
    seen = Mock(wraps=model.rpn_head.losses)
    monkeypatch.setattr(model.rpn_head, "losses", seen)
    target = Target(torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([1]), size=(96, 96))
    model([torch.zeros(3, 96, 96, dtype=torch.uint8)], [target])
    assert set(seen.call_args.args[1][0].labels.tolist()) == {0, 2}
