from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dcn import boxes
from dcn.models.detection.box_head import BoxHead, select_detections
from dcn.models.detection.roi_sampling import SampledRois


def _sampled() -> SampledRois:
    rois = torch.tensor([[0, 10.0, 10, 30, 40], [0, 5.0, 5, 25, 25], [1, 0.0, 0, 50, 20], [1, 30.0, 3, 60, 9]])
    wanted = rois[:, 1:] + torch.tensor([[1.0, 2, 3, 4], [-1, 0, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0]])
    return SampledRois(
        rois, torch.tensor([2, 0, 3, 3]), torch.tensor([0, 1, -1, -1]), wanted, torch.zeros(4, dtype=torch.bool)
    )


@pytest.mark.parametrize("agnostic", [False, True], ids=["per-class", "agnostic"])
def test_losses_equal_the_definition(agnostic: bool) -> None:
    torch.manual_seed(0)
    head, sampled = BoxHead(12, 3, fc_channels=8, class_agnostic=agnostic), _sampled()
    logits, deltas = torch.randn(4, 4), torch.randn(4, 1 if agnostic else 3, 4)
    losses = head.losses(logits, deltas, sampled)
    total = torch.zeros(())
    for row in range(2):
        wanted = boxes.encode(sampled.rois[row, 1:], sampled.boxes[row], stds=(0.1, 0.1, 0.2, 0.2))
        total = total + (deltas[row, 0 if agnostic else int(sampled.labels[row])] - wanted).abs().sum()
    torch.testing.assert_close(losses["loss_bbox"], total / 4)
    torch.testing.assert_close(losses["loss_cls"], F.cross_entropy(logits, sampled.labels))


def test_forward_is_two_layers_and_two_branches() -> None:
    torch.manual_seed(0)
    head, pooled = BoxHead(12, 3, fc_channels=8), torch.randn(5, 3, 2, 2)
    first, second = head.shared_fcs
    hidden = F.relu(second(F.relu(first(pooled.reshape(5, 12)))))
    logits, deltas = head(pooled)
    torch.testing.assert_close(logits, head.fc_cls(hidden))
    torch.testing.assert_close(deltas, head.fc_reg(hidden).reshape(5, 3, 4))


def test_decode_uses_the_region_for_every_class() -> None:
    head, roi = BoxHead(12, 3), torch.tensor([[10.0, 10, 30, 40]])
    deltas = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    got = head.decode(roi, deltas, (35, 200))
    expected = [boxes.decode(roi[0], deltas[0, c], stds=(0.1, 0.1, 0.2, 0.2)) for c in range(3)]
    torch.testing.assert_close(got[0], boxes.clip(torch.stack(expected), (35, 200)))


def test_outputs_are_float32_under_autocast() -> None:
    head = BoxHead(12, 3, fc_channels=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, deltas = head(torch.randn(2, 3, 2, 2))
    assert (logits.dtype, deltas.dtype) == (torch.float32, torch.float32)


def test_selection_by_hand() -> None:
    box = torch.tensor([[[0.0, 0, 10, 10]], [[0.0, 0, 10, 9]], [[50.0, 50, 60, 60]]])
    scores = torch.tensor([[0.9, 0.05], [0.8, 0.6], [0.04, 0.7]])
    got = select_detections(box, scores, score_threshold=0.05)
    assert got[2].tolist() == [0, 1, 1]
    torch.testing.assert_close(got[1], torch.tensor([0.9, 0.7, 0.6]))
    assert got[0].tolist() == [[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 9]]


def test_selection_takes_the_box_of_the_class_and_the_best() -> None:
    box = torch.tensor([[[0.0, 0, 10, 10], [20.0, 0, 30, 10]]])
    got = select_detections(box, torch.tensor([[0.3, 0.6]]), score_threshold=0.1, max_detections=1)
    assert got[0].tolist() == [[20, 0, 30, 10]]


def test_selection_of_nothing() -> None:
    got = select_detections(torch.zeros(0, 1, 4), torch.zeros(0, 3), score_threshold=0.05)
    assert [part.shape[0] for part in got] == [0, 0, 0]
