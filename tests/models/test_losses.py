from __future__ import annotations

import math

import pytest
import torch

from dcn.models import losses


def _naive_smooth_l1(difference: float, beta: float) -> float:
    d = abs(difference)
    return 0.5 * d * d / beta if d < beta else d - 0.5 * beta


@pytest.mark.parametrize("beta", [1.0, 1 / 9])
def test_smooth_l1_equals_the_loop(beta: float) -> None:
    got = torch.tensor([[0.0, 0.05, -0.5, 3.0], [1.0, -0.1, 0.2, -2.0]])
    expected = sum(_naive_smooth_l1(d, beta) for d in got.flatten().tolist()) / 7
    torch.testing.assert_close(losses.box_loss(got, torch.zeros(2, 4), 7, beta), torch.tensor(expected))


def test_l1() -> None:
    got = losses.box_loss(torch.tensor([[1.0, -2, 0, 0.5]]), torch.zeros(1, 4), 2)
    assert got.item() == 1.75


def test_original_sigma() -> None:
    # sigma 3 of the original code: 0.5 (3 d)^2 below 1/9, |d| - 0.5/9 above.
    got = losses.box_loss(torch.tensor([[0.1, 1.0, 0, 0]]), torch.zeros(1, 4), 1, 1 / 9)
    assert got.item() == pytest.approx(0.5 * 0.3**2 + 1 - 0.5 / 9)


def test_binary_loss_by_hand() -> None:
    got = losses.binary_loss(torch.tensor([0.0, 2.0]), torch.tensor([1, 0]), 4)
    assert got.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(2))) / 4)


def test_class_loss_leaves_out_negative_labels() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, -1.0], [5.0, -7.0]])
    got = losses.class_loss(logits, torch.tensor([0, 1, -1]))
    assert got.item() == pytest.approx((math.log(2) + 2 + math.log(1 + math.exp(-2))) / 2)


def test_mask_loss_sees_the_own_class_only() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1] = torch.tensor([[1.0, -1], [2, -2]])
    logits[0, 0] = 100
    got = losses.mask_loss(logits, torch.tensor([[[True, False], [True, False]]]), torch.tensor([1]))
    assert got.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2)


@pytest.mark.parametrize("kind", ["box", "binary", "class", "mask"])
def test_nothing_gives_zero_with_a_gradient(kind: str) -> None:
    shape = {"box": (0, 4), "binary": (0,), "class": (0, 5), "mask": (0, 5, 2, 2)}[kind]
    given = torch.zeros(shape, requires_grad=True)
    label = torch.zeros(0, dtype=torch.int64)
    loss = {
        "box": lambda: losses.box_loss(given, torch.zeros(0, 4), 0),
        "binary": lambda: losses.binary_loss(given, label, 0),
        "class": lambda: losses.class_loss(given, label),
        "mask": lambda: losses.mask_loss(given, torch.zeros(0, 2, 2), label),
    }[kind]()
    loss.backward()
    assert loss.item() == 0
    assert given.grad is not None


def test_half_precision_is_summed_in_float32() -> None:
    logits = torch.zeros(5000, 4, dtype=torch.bfloat16)
    assert losses.box_loss(logits, torch.ones(5000, 4), 1).item() == 20000


def test_what_is_not_valid_has_neither_loss_nor_gradient() -> None:
    nan = float("nan")
    valid = torch.tensor([True, False, False])
    deltas = torch.tensor([[1.0, 2, 0, 0], [3, 4, 5, 6], [nan, 0, 0, 0]], requires_grad=True)
    reference = torch.tensor([[0.0] * 4, [float("-inf"), nan, 0, 0], [0.0] * 4])
    box = losses.box_loss(deltas, reference, torch.tensor(2), valid=valid)
    logits = torch.tensor([0.5, 3.0, nan], requires_grad=True)
    binary = losses.binary_loss(logits, torch.tensor([1, 0, 1]), torch.tensor(0), valid)
    maps = torch.randn(3, 2, 4, 5, requires_grad=True)
    mask = losses.mask_loss(maps, torch.ones(3, 4, 5, dtype=torch.bool), torch.tensor([1, -1, -1]))
    (box + binary + mask).backward()
    torch.testing.assert_close(box, torch.tensor(1.5))
    torch.testing.assert_close(binary, torch.nn.functional.softplus(torch.tensor(-0.5)))
    torch.testing.assert_close(mask, torch.nn.functional.softplus(-maps[0, 1]).mean())
    for given in (deltas, logits, maps):
        assert given.grad is not None
        assert bool(given.grad[0].any())
        assert given.grad[1:].count_nonzero() == 0
