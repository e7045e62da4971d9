from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.models.detection.original.rpn import OriginalRPNHead, OriginalRPNOutput, decode
from dcn.models.detection.original.targets import AnchorTargets
from dcn.models.detection.shared.anchors import AnchorShapes


def _head(num_classes: int = 1, *, before: int = 6000, after: int = 300) -> OriginalRPNHead:
    torch.manual_seed(0)
    head = OriginalRPNHead(
        3,
        4,
        anchors=AnchorShapes((8,), (1, 2), (0.5, 1)),
        num_classes=num_classes,
        before_nms=before,
        after_nms=after,
        samples=10,
    )
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.7)
    return head


@pytest.mark.parametrize("num_classes", [1, 2], ids=["object-or-not", "class-aware"])
def test_channels_of_scores_and_deltas(num_classes: int) -> None:
    """Class k of anchor a is channel k*A + a; delta i of anchor a is channel 4a + i."""
    head = _head(num_classes).eval()
    feature = torch.randn(2, 3, 3, 5)
    hidden = head.rpn_conv(feature).relu()
    scores, moves = head.rpn_cls(hidden), head.rpn_reg(hidden)
    output = head([feature])
    for image, row, column, shape in ((0, 0, 0, 0), (1, 2, 4, 3), (0, 1, 3, 2)):
        anchor = (row * 5 + column) * 4 + shape
        torch.testing.assert_close(output.logits[image, anchor], scores[image, shape::4, row, column])
        torch.testing.assert_close(output.deltas[image, anchor], moves[image, 4 * shape : 4 * shape + 4, row, column])
        cell = torch.tensor([8.0 * column, 8.0 * row, 8.0 * column, 8.0 * row])
        torch.testing.assert_close(output.anchors[anchor], output.anchors[shape] + cell)


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    overlap = np.prod(np.maximum(high - low + 1, 0))
    return float(overlap / (np.prod(first[2:] - first[:2] + 1) + np.prod(second[2:] - second[:2] + 1) - overlap))


def _proposals(output: OriginalRPNOutput, size: tuple[int, int], before: int, after: int) -> np.ndarray:
    """Candidate by candidate, by definition, for a single level of stride 8 and four anchors per cell."""
    candidates = []
    columns = output.shapes[0][1]
    for index, (logits, move, anchor) in enumerate(
        zip(output.logits[0].numpy(), output.deltas[0].numpy(), output.anchors.numpy(), strict=True)
    ):
        row, column = divmod(index // 4, columns)
        if row >= size[0] // 8 or column >= size[1] // 8:
            continue
        side = anchor[2:] - anchor[:2] + 1
        centre = anchor[:2] + 0.5 * (side - 1) + move[:2] * side
        reach = 0.5 * (np.exp(move[2:]) * side - 1)
        box = np.concatenate((centre - reach, centre + reach))
        limit = np.array([size[1], size[0], size[1], size[0]]) - 1
        candidates.append((1 / (1 + np.exp(logits[0] - logits[1])), np.clip(box, 0, limit)))
    candidates = sorted(candidates, key=lambda pair: -pair[0])[:before]
    kept: list[np.ndarray] = []
    for _, box in candidates:
        if all(_iou(box, other) <= 0.7 for other in kept):
            kept.append(box)
    return np.array(kept[:after])


@pytest.mark.parametrize(("before", "after"), [(6000, 300), (20, 300), (6000, 7)], ids=["all", "before", "after"])
def test_proposals_by_definition(before: int, after: int) -> None:
    head = _head(before=before, after=after).eval()
    with torch.no_grad():
        output = head([torch.randn(1, 3, 5, 6)])
    size = (35, 44)  # the last row and column of cells stick out and are left out
    right = _proposals(output, size, before, after)
    got = head.proposals(output, torch.tensor([size])).per_image()[0]
    np.testing.assert_allclose(got.numpy(), right, rtol=1e-4, atol=1e-3)


def test_training_fills_up_with_repeats() -> None:
    head = _head()
    with torch.no_grad():
        output = head([torch.randn(1, 3, 5, 6)])
    filled = head.train().filled_proposals(output, torch.tensor([[40, 48]])).boxes[0]
    distinct = head.eval().proposals(output, torch.tensor([[40, 48]])).per_image()[0]
    assert len(distinct) < 300
    assert filled.shape == (300, 4)
    torch.testing.assert_close(filled[: len(distinct)], distinct)
    assert {tuple(row) for row in filled.tolist()} == {tuple(row) for row in distinct.tolist()}


def test_losses_by_definition() -> None:
    head = _head()
    torch.manual_seed(1)
    logits, deltas, right = torch.randn(2, 5, 2), torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    labels = torch.tensor([[0, 1, -1, 1, 0], [0, 0, 0, -1, -1]])
    output = OriginalRPNOutput(logits, deltas, torch.zeros(5, 4), [])
    targets = [AnchorTargets(label, delta) for label, delta in zip(labels, right, strict=True)]
    losses = head.losses(output, targets)
    cls = [
        np.mean([-float(logits[i].log_softmax(1)[a, labels[i, a]]) for a in range(5) if labels[i, a] >= 0])
        for i in range(2)
    ]
    distance = (deltas - right)[0, [1, 3]].abs().numpy()
    reg = np.where(distance < 1 / 9, 4.5 * distance**2, distance - 0.5 / 9).sum() / 10
    assert float(losses["loss_rpn_cls"]) == pytest.approx(np.mean(cls), rel=1e-5)
    assert float(losses["loss_rpn_bbox"]) == pytest.approx(reg / 2, rel=1e-5)


def test_decoding_has_no_bound_but_the_image() -> None:
    reference = torch.tensor([[10.0, 10, 19, 19]])
    # A shift of half a width, and exp(5) = 148 times the height, which is then cut at the image.
    got = decode(reference[None], torch.tensor([[[0.5, 0, 0, 5.0]]]), torch.tensor([[100, 200]]))[0]
    torch.testing.assert_close(got, torch.tensor([[15.0, 0, 24, 99]]))
    halved = decode(reference, torch.tensor([[5.0, 0, 0, 0]]), torch.tensor([[100, 200]]), (0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(halved, torch.tensor([[15.0, 10, 24, 19]]))


def test_number_of_maps_is_checked() -> None:
    maps: list[Tensor] = [torch.zeros(1, 3, 4, 4)] * 2
    with pytest.raises(ValueError, match=r"features: expected 1 maps \(strides \(8,\)\), got 2"):
        _head()(maps)
