"""Multi-scale deformable attention in Triton against the plain PyTorch one in float64.

Without a GPU it runs in Triton's interpreter; on a machine with a GPU the same tests run on the card.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dcn.kernels.reference import ms_deform_attn as reference
from dcn.kernels.triton import ms_deform_attn
from dcn.ops import ms_deform_attn as operator
from tests.kernels.triton.test_roi_mean import TOLERANCE, _deterministic, _error
from tests.ops.attn_cases import CASES, Arguments, Attn, make, output_gradient

SMALL = {
    name: CASES[name]
    for name in ("awkward", "one-of-each", "empty-level", "no-images", "no-queries", "no-points", "no-channels")
} | {
    "no-pixels": CASES["no-pixels"],
    "many-channels": replace(CASES["many-channels"], queries=3),
    "many-queries": Attn(((3, 4),), batch=1, queries=70, heads=1, channels=32, points=1),
}
EVERY = pytest.mark.parametrize("case", SMALL.values(), ids=SMALL.keys())
NEEDS = (True, True, True)


def _moved(args: Arguments, device: torch.device) -> Arguments:
    return Arguments(*(t.to(device) for t in args))


def _compare(actual: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours is not None
        assert theirs is not None
        assert ours.shape == theirs.shape
        assert not ours.numel() or _error(ours, theirs) < TOLERANCE[ours.dtype] * 4


def _check(args: Arguments, grad: Tensor, device: torch.device) -> None:
    call, upstream = _moved(args, device), grad.to(device)
    assert ms_deform_attn.unsupported(*call) is None
    actual = [ms_deform_attn.forward(*call), *ms_deform_attn.backward(upstream, *call, NEEDS)]
    exact = args.to(torch.float64)
    _compare(actual, [reference.forward(*exact), *reference.backward(grad.double(), *exact, NEEDS)])


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_values_and_gradients_agree_with_the_reference(dtype: torch.dtype, case: Attn, device: torch.device) -> None:
    _check(make(case, dtype=dtype), output_gradient(case, dtype), device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype: torch.dtype, device: torch.device) -> None:
    case = SMALL["awkward"]
    _check(make(case, dtype=torch.float32).to(dtype, torch.float32), output_gradient(case, dtype), device)


def test_whole_numbers_in_deterministic_mode(device: torch.device) -> None:
    case = SMALL["awkward"]
    args, grad = _moved(make(case, dtype=torch.float32), device), output_gradient(case, torch.float32).to(device)
    with _deterministic():
        first = ms_deform_attn.backward(grad, *args, NEEDS)
        again = ms_deform_attn.backward(grad, *args, NEEDS)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True) if a is not None and b is not None)
    exact = make(case, dtype=torch.float32).to(torch.float64)
    expected = reference.backward(output_gradient(case, torch.float32).double(), *exact, NEEDS)
    _compare(list(first), list(expected))


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_only_wanted_gradients(needs: tuple[bool, bool, bool], device: torch.device) -> None:
    case = SMALL["awkward"]
    args, grad = _moved(make(case), device), output_gradient(case).to(device)
    actual, expected = ms_deform_attn.backward(grad, *args, needs), reference.backward(grad, *args, needs)
    assert [t is None for t in actual] == [not need for need in needs]
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours is None or theirs is None or _error(ours, theirs.cpu()) < TOLERANCE[torch.float64]


def test_places_that_are_none_stay_unread(device: torch.device) -> None:
    """NaN, infinity, samples outside, and levels that do not lie within the values."""
    case = Attn(((2, 3), (4, 4)), batch=1, queries=2, heads=1, channels=3, points=2)
    args = make(case)
    locations = args.locations.clone()
    locations[0, 0, 0, 0] = torch.tensor([float("nan"), 0.5])
    locations[0, 1, 0, 0] = torch.tensor([0.5, float("-inf")])
    bad = Arguments(args.value, args.shapes, torch.tensor([0, 18]), locations, args.weights)
    grad = output_gradient(case)
    call = _moved(bad, device)
    actual = [ms_deform_attn.forward(*call), *ms_deform_attn.backward(grad.to(device), *call, NEEDS)]
    _compare(actual, [reference.forward(*bad), *reference.backward(grad, *bad, NEEDS)])


def test_the_operator_takes_it_by_name(device: torch.device) -> None:
    args = make(SMALL["awkward"])
    leaves = [t.to(device).requires_grad_() for t in args.leaves()]
    actual = operator(leaves[0].detach().requires_grad_(), args.shapes.to(device), None, *leaves[1:], backend="triton")
    assert _error(actual.detach(), reference.forward(*args)) < TOLERANCE[torch.float64]
