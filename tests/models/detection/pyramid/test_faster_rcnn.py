from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn import boxes
from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.models.detection.pyramid.rcnn_fpn import rcnn_fpn
from dcn.models.detection.pyramid.specs import RoIHeadSpec
from dcn.structures import Detections, Target
from tests.models.detection.conftest import tiny, train

KINDS: dict[str, dict[str, Any]] = {
    "faster": {},
    "mask": {"masks": True},
    "cascade": {"cascade": True},
    "cascade-mask": {"cascade": True, "masks": True},
    "deformable": {"deform_stages": ("c3", "c4", "c5"), "modulated": True},
    "dpool": {"roi_pooling": "deform"},
    "mdpool": {"roi_pooling": "modulated"},
    "cascade-dpool": {"cascade": True, "roi_pooling": "deform"},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def _build(kind: str = "faster", **options: Any) -> FasterRCNN:
    torch.manual_seed(0)
    return tiny(**KINDS[kind], **options)


def _excited(kind: str = "faster") -> FasterRCNN:
    """A detector with large random outputs, so that it finds many things."""
    model = _build(kind, norm="eval").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "fc_cls" in name or "rpn_cls" in name:
                parameter.mul_(50)
    return model


@pytest.mark.parametrize("kind", ["mask", "cascade"])
def test_learns_one_picture(kind: str, picture: Tensor, target: Target) -> None:
    model = _build(kind, fpn_channels=32, fc_channels=64)
    totals = train(model, picture, target, 120)
    assert totals[-1] < 0.5 * totals[0]
    model.eval()
    with torch.no_grad():
        (result,) = model([picture])
    best = [int((result.labels == label).nonzero()[0]) for label in (0, 1)]
    overlap = boxes.iou(result.boxes[best], target.boxes).diagonal()
    assert overlap.min() > 0.6
    assert result.scores[best].min() > 0.5
    assert (result.masks is not None) == (kind == "mask")
    if result.masks is None or target.masks is None:
        return
    both = (result.masks[best] & target.masks).sum((1, 2)) / (result.masks[best] | target.masks).sum((1, 2))
    assert both.min() > 0.6


@kinds
def test_gradients_reach_what_is_trained_and_nothing_else_moves(kind: str, picture: Tensor, target: Target) -> None:
    # On a larger picture: Cascade R-CNN trains anchors inside the image only, and the coarse levels need some.
    picture = picture.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert target.masks is not None
    masks = target.masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    target = Target(target.boxes * 4, target.labels, (256, 384), masks=masks)
    model = _build(kind, frozen_stages=1, norm="eval")
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    # Two steps: layers behind zero-initialised branches have a gradient only once those have moved.
    train(model, picture, target, 2)
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, grad in trained.items() if grad is None] == []
    # The branches of deformable pooling belong to one level each, and not every level has regions here.
    still = [name for name, grad in trained.items() if not (grad is not None and grad.any())]
    assert [name for name in still if "roi_layers" not in name] == []
    assert not any("roi_layers.0" in name for name in still)
    assert frozen
    for name, value in frozen.items():
        assert torch.equal(model.get_parameter(name), value), name
    for name, value in buffers.items():
        assert torch.equal(model.get_buffer(name), value), name


def _no_objects(target: Target) -> Target:
    return target.select(torch.zeros(len(target), dtype=torch.bool))


@kinds
@pytest.mark.parametrize("why", ["empty", "crowd", "difficult", "no-area"])
def test_nothing_to_learn_gives_finite_losses(kind: str, why: str, picture: Tensor, target: Target) -> None:
    everything = torch.ones(2, dtype=torch.bool)
    nothing = {
        "empty": _no_objects(target),
        "crowd": replace(target, crowd=everything),
        "difficult": replace(target, difficult=everything),
        "no-area": replace(target, boxes=torch.full((2, 4), 5.0)),
    }[why]
    model = _build(kind).train()
    losses = model([picture], [nothing])
    assert isinstance(losses, dict)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert {name: v.item() for name, v in losses.items() if "bbox" in name or "mask" in name} == {
        name: 0.0 for name in losses if "bbox" in name or "mask" in name
    }


def test_no_proposals(picture: Tensor, target: Target) -> None:
    model = _build("mask", train_proposals=(100, 0), test_proposals=(100, 0))
    losses = model.train()([picture], [_no_objects(target)])
    assert isinstance(losses, dict)
    assert all(v.isfinite() for v in losses.values())
    (result,) = model.eval()([picture])
    assert isinstance(result, Detections)
    assert result.masks is not None
    assert result.masks.shape == (0, 64, 96)


@kinds
def test_a_prediction_does_not_depend_on_its_neighbours(kind: str, picture: Tensor) -> None:
    model = _excited(kind)
    others = [picture[:, :40, :50].contiguous(), picture.flip(2), picture[:, :, :70].contiguous()]
    with torch.no_grad():
        together = model([picture, *others])
        alone = [model([image])[0] for image in (picture, *others)]
    assert len(together[0]) > 5
    for a, b in zip(together, alone, strict=True):
        assert isinstance(a, Detections)
        assert len(a) == len(b)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
        # Two scores that differ in the last digit only may swap, so each detection looks for its own: boxes
        # within 0.01 pixels, the same label, scores within 1e-4.
        distance = torch.cdist(_rows(a), _rows(b), p=torch.inf)
        assert distance.amin(0).max() < 1e-2
        assert distance.amin(1).max() < 1e-2


def _rows(result: Detections) -> Tensor:
    return torch.cat((result.boxes, result.scores[:, None] * 100, result.labels[:, None] * 1000), 1)


def test_detections_are_ordered_clipped_and_limited(picture: Tensor) -> None:
    model = _excited()
    model.roi_head.max_detections = 7
    with torch.no_grad():
        (result,) = model([picture[:, :50, :61].contiguous()])
    assert isinstance(result, Detections)
    assert len(result) == 7
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
    assert result.boxes.min() >= 0
    assert result.boxes[:, 2].max() <= 61
    assert result.boxes[:, 3].max() <= 50


def test_score_threshold_is_strict(picture: Tensor) -> None:
    model = _excited()
    with torch.no_grad():
        (everything,) = model([picture])
        model.score_threshold = everything.scores[3].item()
        (best,) = model([picture])
    assert best.scores.tolist() == everything.scores[:3].tolist()


def test_output_sizes_scale_boxes_and_masks(picture: Tensor) -> None:
    model = _excited("mask")
    with torch.no_grad():
        (plain,) = model([picture])
        (scaled,) = model([picture], output_sizes=[(128, 96)])
    assert scaled.masks is not None
    assert scaled.masks.shape[1:] == (128, 96)
    # Suppression runs in the scaled frame, so compare the best of each only.
    torch.testing.assert_close(scaled.boxes[0], plain.boxes[0] * torch.tensor([1.0, 2, 1, 2]))


def test_same_seed_same_losses(picture: Tensor, target: Target) -> None:
    runs = []
    for _ in range(2):
        model = _build("cascade-mask").train()
        torch.manual_seed(3)
        runs.append(model([picture], [target]))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("kind", ["mask", "cascade", "deformable"])
def test_bfloat16_autocast(kind: str, picture: Tensor, target: Target) -> None:
    model = _build(kind).train()
    torch.manual_seed(1)
    full = model([picture], [target])
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model([picture], [target])
    assert isinstance(half, dict)
    assert isinstance(full, dict)
    torch.stack(list(half.values())).sum().backward()
    assert {value.dtype for value in half.values()} == {torch.float32}
    torch.testing.assert_close(half["loss_rpn_cls"], full["loss_rpn_cls"], rtol=0.02, atol=0)


def test_training_needs_targets(picture: Tensor, target: Target) -> None:
    model = _build().train()
    with pytest.raises(ValueError, match=r"targets: expected one per image in training mode .* got None"):
        model([picture])
    with pytest.raises(ValueError, match=r"targets: expected one per image in training mode .* got 2"):
        model([picture], [target, target])


def test_output_sizes_must_fit(picture: Tensor) -> None:
    with pytest.raises(ValueError, match="output_sizes: expected 1"):
        _build().eval()([picture], output_sizes=[(1, 1), (2, 2)])


def test_no_images() -> None:
    assert _build().eval()([]) == []


def test_unknown_roi_pooling() -> None:
    with pytest.raises(ValueError, match="roi_pooling: expected 'align', 'deform' or 'modulated', got 'max'"):
        rcnn_fpn(roi_head=RoIHeadSpec(roi_pooling="max"))  # type: ignore[arg-type]
