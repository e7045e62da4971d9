from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from dcn import boxes
from dcn.models.detection.pyramid.rpn import RPNHead, RPNOutput
from dcn.models.detection.shared.anchors import AnchorShapes
from dcn.models.detection.shared.fixed_shapes import fixed_shapes
from dcn.models.detection.shared.matcher import IGNORED
from dcn.models.preprocess import ImageBatch
from dcn.structures import Target

STRIDES = (8, 16)


def _head(**options: object) -> RPNHead:
    torch.manual_seed(0)
    return RPNHead(8, anchors=AnchorShapes(STRIDES, (2.0,)), **options)  # type: ignore[arg-type]


def _features(count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 8, 64 // s, 96 // s, generator=generator) for s in STRIDES]


def _batch(*sizes: tuple[int, int]) -> ImageBatch:
    return ImageBatch(torch.zeros(len(sizes), 3, 64, 96), list(sizes), 32)


def _target(box: list[list[float]]) -> Target:
    return Target(torch.tensor(box).reshape(-1, 4), torch.zeros(len(box), dtype=torch.int64), (64, 96))


def test_order_of_scores_and_deltas() -> None:
    head, features = _head(), _features()
    output = head(features)
    hidden = F.relu(head.rpn_conv(features[1]))
    row, column, anchor = 2, 3, 1
    index = (row * 6 + column) * 3 + anchor
    torch.testing.assert_close(output.logits[1][1, index], head.rpn_cls(hidden)[1, anchor, row, column])
    reference = head.rpn_reg(hidden)[1, 4 * anchor : 4 * anchor + 4, row, column]
    torch.testing.assert_close(output.deltas[1][1, index], reference)
    assert output.anchors[1][index].tolist() == [48 - 16, 32 - 16, 48 + 16, 32 + 16]


def test_proposals_equal_the_rule_step_by_step() -> None:
    head = _head(test_proposals=(20, 15)).eval()
    with torch.no_grad():
        head.rpn_reg.weight.mul_(30)
        output = head(_features())
    (first, second), size = head.proposals(output, torch.tensor([[60, 90], [64, 96]])).per_image(), (60, 90)
    expected: list[tuple[float, list[float]]] = []
    for logits, deltas, anchors in zip(output.logits, output.deltas, output.anchors, strict=True):
        order = logits[0].argsort(descending=True)[:20]
        decoded = boxes.clip(boxes.decode(anchors[order], deltas[0, order]), size)
        kept: list[torch.Tensor] = []
        for score, box in zip(logits[0, order].tolist(), decoded, strict=True):
            if bool((boxes.sizes(box) <= 0).any()):
                continue
            if all(boxes.iou(box[None], other[None]).item() <= 0.7 for other in kept):
                kept.append(box)
                expected.append((score, box.tolist()))
    expected.sort(key=lambda entry: -entry[0])
    torch.testing.assert_close(first, torch.tensor([box for _, box in expected[:15]]))
    assert second.shape[0] <= 15


def test_training_has_its_own_limits() -> None:
    head = _head(train_proposals=(50, 7), test_proposals=(50, 3))
    output = head(_features(1))
    counts = [head.train(mode).proposals(output, torch.tensor([[64, 96]])).boxes.shape[1] for mode in (True, False)]
    assert counts == [7, 3]


@pytest.mark.parametrize("fixed", [False, True], ids=["trimmed", "fixed"])
def test_losses_equal_the_definition_when_everything_is_sampled(fixed: bool) -> None:
    head, batch = _head(samples=100_000), _batch((64, 96), (64, 96))
    targets = [_target([[30.0, 14, 50, 34]]), _target([])]
    output = head(_features())
    with fixed_shapes() if fixed else nullcontext():
        losses = head.losses(output, batch, targets)
    anchors = torch.cat(output.anchors)
    overlap = boxes.iou(targets[0].boxes, anchors)[0]
    positive = (overlap >= 0.7) | ((overlap == overlap.max()) & (overlap.max() >= 0.3))
    used = positive | (overlap < 0.3)
    logits, deltas = torch.cat(output.logits, 1), torch.cat(output.deltas, 1)
    count = int(used.sum()) + anchors.shape[0]
    score = F.binary_cross_entropy_with_logits(logits[0, used], positive[used].float(), reduction="sum")
    score = score + F.softplus(logits[1]).sum()
    reference = boxes.encode(anchors[positive], targets[0].boxes.expand(int(positive.sum()), 4))
    assert int(positive.sum()) > 0
    torch.testing.assert_close(losses["loss_rpn_cls"], score / count)
    torch.testing.assert_close(losses["loss_rpn_bbox"], (deltas[0, positive] - reference).abs().sum() / count)


def test_anchors_in_foreign_padding_are_left_out() -> None:
    head = _head()
    output: RPNOutput = head(_features())
    usable = head._usable(output, _batch((20, 40), (64, 96)), 0)
    centre = torch.cat([(a[:, :2] + a[:, 2:]) / 2 for a in output.anchors])
    torch.testing.assert_close(usable, (centre[:, 0] < 64) & (centre[:, 1] < 32))


def test_cascade_uses_anchors_inside_the_image() -> None:
    head = _head(inside_only=True)
    output = head(_features())
    usable = head._usable(output, _batch((60, 90), (64, 96)), 0)
    expected = [x1 >= 0 and y1 >= 0 and x2 < 90 and y2 < 60 for a in output.anchors for x1, y1, x2, y2 in a.tolist()]
    assert usable.tolist() == expected
    matched = head._match(torch.cat(output.anchors), usable, _target([[30.0, 14, 50, 34]]))
    assert bool((matched[~usable] == IGNORED).all())


@pytest.mark.parametrize("targets", [[[], []], [[[0.0, 0, 96, 64]], []]], ids=["none", "one"])
def test_gradients_reach_every_parameter(targets: list[list[list[float]]]) -> None:
    head = _head()
    losses = head.losses(head(_features()), _batch((64, 96), (64, 96)), [_target(t) for t in targets])
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in head.parameters())
    assert head.rpn_cls.weight.grad is not None
    assert head.rpn_cls.weight.grad.abs().sum() > 0


def test_wrong_number_of_maps() -> None:
    with pytest.raises(ValueError, match="features: expected 2 maps"):
        _head()(_features()[:1])
