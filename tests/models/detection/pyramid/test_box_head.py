from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from dcn import boxes
from dcn.models.detection.pyramid.box_head import BoxHead
from dcn.models.detection.pyramid.roi_sampling import SampledRois
from dcn.models.detection.shared.fixed_shapes import fixed_shapes


def _sampled() -> SampledRois:
    rois = torch.tensor([[0, 10.0, 10, 30, 40], [0, 5.0, 5, 25, 25], [1, 0.0, 0, 50, 20], [1, 30.0, 3, 60, 9]])
    reference = rois[:, 1:] + torch.tensor([[1.0, 2, 3, 4], [-1, 0, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0]])
    return SampledRois(
        rois, torch.tensor([2, 0, 3, 3]), torch.tensor([0, 1, -1, -1]), reference, torch.zeros(4, dtype=torch.bool)
    )


@pytest.mark.parametrize("fixed", [False, True], ids=["trimmed", "fixed"])
@pytest.mark.parametrize("agnostic", [False, True], ids=["per-class", "agnostic"])
def test_losses_equal_the_definition(agnostic: bool, fixed: bool) -> None:
    torch.manual_seed(0)
    head, sampled = BoxHead(12, 3, fc_channels=8, class_agnostic=agnostic), _sampled()
    logits, deltas = torch.randn(4, 4), torch.randn(4, 1 if agnostic else 3, 4)
    with fixed_shapes() if fixed else nullcontext():
        losses = head.losses(logits, deltas, sampled)
    total = torch.zeros(())
    for row in range(2):
        reference = boxes.encode(sampled.rois[row, 1:], sampled.boxes[row], stds=(0.1, 0.1, 0.2, 0.2))
        total = total + (deltas[row, 0 if agnostic else int(sampled.labels[row])] - reference).abs().sum()
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
    got = boxes.clip(head.decode(roi, deltas), (35, 200))
    expected = [boxes.decode(roi[0], deltas[0, c], stds=(0.1, 0.1, 0.2, 0.2)) for c in range(3)]
    torch.testing.assert_close(got[0], boxes.clip(torch.stack(expected), (35, 200)))


def test_outputs_are_float32_under_autocast() -> None:
    head = BoxHead(12, 3, fc_channels=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, deltas = head(torch.randn(2, 3, 2, 2))
    assert (logits.dtype, deltas.dtype) == (torch.float32, torch.float32)


def test_an_empty_place_has_no_part_in_the_losses() -> None:
    torch.manual_seed(0)
    head, sampled = BoxHead(12, 3, fc_channels=8), _sampled()
    logits, deltas = torch.randn(5, 4, requires_grad=True), torch.randn(5, 3, 4, requires_grad=True)
    padded = SampledRois(
        torch.cat((sampled.rois, torch.zeros(1, 5))),
        torch.cat((sampled.labels, torch.tensor([-1]))),
        torch.cat((sampled.objects, torch.tensor([-1]))),
        torch.cat((sampled.boxes, torch.zeros(1, 4))),
        torch.zeros(5, dtype=torch.bool),
    )
    reference = head.losses(logits[:4], deltas[:4], sampled)
    with fixed_shapes():
        losses = head.losses(logits, deltas, padded)
    torch.testing.assert_close(losses, reference)
    sum(losses.values(), torch.zeros(())).backward()
    assert logits.grad is not None
    assert deltas.grad is not None
    assert logits.grad[4].count_nonzero() == deltas.grad[4].count_nonzero() == 0
    assert bool(deltas.grad.isfinite().all())
