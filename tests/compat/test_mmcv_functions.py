"""``dcn.compat.mmcv``: functions that stand beside the operators, and offsets that are larger than the output."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dcn.compat import mmcv
from dcn.compat._layers import Refused


def _loss_of_one(logit: float, is_target: bool, gamma: float, alpha: float) -> float:
    """Equation 5 of the paper."""
    p = 1 / (1 + math.exp(-logit))
    return -alpha * (1 - p) ** gamma * math.log(p) if is_target else -(1 - alpha) * p**gamma * math.log(1 - p)


@pytest.mark.parametrize("weight", [None, [2.0, 0.5, 1.0]], ids=["plain", "weighted"])
def test_focal_loss(weight: list[float] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float32, requires_grad=True)
    target = torch.tensor([0, 2, 3, 1, 3])
    weights = None if weight is None else torch.tensor(weight)
    got = mmcv.sigmoid_focal_loss(logits, target, 1.5, 0.3, weights, "none")
    for n, c in ((n, c) for n in range(5) for c in range(3)):
        factor = 1.0 if weight is None or target[n] == 3 else weight[int(target[n])]
        expected = factor * _loss_of_one(logits[n, c].item(), target[n].item() == c, 1.5, 0.3)
        assert abs(got[n, c].item() - expected) < 1e-6
    mean = mmcv.sigmoid_focal_loss(logits, target, 1.5, 0.3, weights)
    torch.testing.assert_close(mean, got.sum() / 5)
    torch.testing.assert_close(mmcv.sigmoid_focal_loss(logits, target, 1.5, 0.3, weights, "sum"), got.sum())
    assert torch.autograd.grad(mean, logits)[0].isfinite().all()
    far = mmcv.sigmoid_focal_loss(torch.tensor([[-200.0, 200.0]]), torch.tensor([0]), reduction="none")
    torch.testing.assert_close(far, torch.tensor([[50.0, 150.0]]))


def test_masked_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((1, 2, 5, 6), (3, 2, 3, 3), (3,)))
    mask = torch.randint(-1, 2, (1, 5, 6), generator=generator)
    got = mmcv.masked_conv2d(x, mask, weight, bias, 1)
    full = F.conv2d(x, weight, bias, padding=1)
    assert torch.equal(got[:, :, mask[0] > 0], full[:, :, mask[0] > 0])
    assert (got[:, :, mask[0] <= 0] == 0).all()
    with pytest.raises(Refused, match="mask: expected"):
        mmcv.masked_conv2d(x, mask, weight, bias)
    with pytest.raises(Refused, match="stride: expected 1"):
        mmcv.masked_conv2d(x, mask, weight, bias, 1, 2)


def _by_memory(maps: Tensor, rows: int, columns: int) -> Tensor:
    """What mmcv's kernel reads: the number at ``(channel * rows + row) * columns + column`` of an image's memory."""
    result = np.zeros((maps.shape[0], maps.shape[1], rows, columns))
    for image in range(maps.shape[0]):
        memory = maps[image].numpy().ravel()
        for channel in range(maps.shape[1]):
            for row in range(rows):
                for column in range(columns):
                    result[image, channel, row, column] = memory[(channel * rows + row) * columns + column]
    return torch.from_numpy(result)


def test_an_offset_that_is_larger_than_the_output() -> None:
    """DyHead gives the layer of a coarser map the offsets of a finer one."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((2, 4, 3, 4), (4, 2, 3, 3)))
    offset, mask = (torch.randn(2, c, 6, 8, generator=generator, dtype=torch.float64) for c in (36, 18))
    expected = mmcv.modulated_deform_conv2d(
        x, _by_memory(offset, 3, 4), _by_memory(mask, 3, 4), weight, None, 1, 1, 1, 2, 2
    )
    offset.requires_grad_()
    with pytest.warns(UserWarning, match=r"the offset is \[6, 8\] and the output \[3, 4\]; it is read by its memory"):
        got = mmcv.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 2, 2)
    torch.testing.assert_close(got, expected)
    (grad,) = torch.autograd.grad(got.sum(), offset)
    assert grad.flatten(1)[:, : 36 * 12].abs().sum() > 0
    assert grad.flatten(1)[:, 36 * 12 :].abs().sum() == 0
    with pytest.raises(ValueError, match="offset: expected shape"):
        mmcv.modulated_deform_conv2d(x, offset[..., :2, :2], mask[..., :2, :2], weight, None, 1, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="offset: expected shape"):
        mmcv.modulated_deform_conv2d(x, offset, mask[..., :3, :4], weight, None, 1, 1, 1, 2, 2)
