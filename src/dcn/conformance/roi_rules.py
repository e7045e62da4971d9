"""RoI pooling and non-maximum suppression: which published rule an implementation follows, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dcn import ops
from dcn.conformance.implementations import Function
from dcn.conformance.rules import Rule, verdict
from dcn.ops.roi_pool import Rounding

_ROIS = ((0, 1.2, 0.3, 9.6, 7.9), (1, 3.4, 2.2, 14.1, 12.7), (1, -3.0, -2.5, 6.2, 30.0), (0, 5.0, 5.0, 5.0, 5.0))
_SCALE = 0.5
Ask = Callable[[Function], tuple[str, bool]]


def _map(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 8, 9, 8, generator=generator, dtype=torch.float64).to(dtype)


def _rois(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(_ROIS, dtype=dtype)


def _difference(first: Tensor, second: Tensor) -> float:
    return (first.double() - second.double()).abs().max().item() if first.numel() else 0.0


def _agrees(reference: Function, options: Sequence[tuple[Any, ...]]) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        errors = []
        for count in (4, 0):
            call = (_map(), _rois()[:count], 2, _SCALE)
            errors += [_difference(function(*call, *more), reference(*call, *more)) for more in options]
        return verdict(errors, 1e-9)

    return ask


def _half(reference: Function, dtype: torch.dtype) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        actual = function(_map(dtype), _rois(dtype), 2, _SCALE)
        return verdict([_difference(actual, reference(_map(dtype).double(), _rois(dtype).double(), 2, _SCALE))], 2e-2)

    return ask


def _gradient(reference: Function) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        grads = []
        for each in (function, reference):
            leaf = _map().requires_grad_()
            each(leaf, _rois(), 2, _SCALE).square().sum().backward()
            assert leaf.grad is not None
            grads.append(leaf.grad)
        return verdict([_difference(*grads)], 1e-9)

    return ask


def _second(function: Function) -> tuple[str, bool]:
    leaf = _map()[:, :, :5, :5].clone().requires_grad_()
    ok = torch.autograd.gradgradcheck(lambda x: function(x, _rois()[:2], 2, _SCALE), (leaf,), fast_mode=True)
    return "gradgradcheck passes", ok


def _wild(function: Function) -> tuple[str, bool]:
    rois = torch.tensor([[0, float("nan"), 0, 3, 3], [0, 0, 0, float("inf"), 3], [1, -1e30, -1e30, 1e30, 1e30]])
    actual = function(_map(torch.float32), rois, 2, _SCALE)
    ok = bool(torch.isfinite(actual).all()) and not actual[:2].any()
    return ("zeros for NaN and infinity" if ok else "reads NaN and infinity as coordinates"), ok


_ROUNDINGS: tuple[tuple[Rounding, str], ...] = (
    ("before_scale", "before scaling (R-FCN)"),
    ("after_scale", "after scaling (torchvision)"),
)


def _rounding(function: Function) -> tuple[str, bool]:
    actual = function(_map(), _rois(), 2, _SCALE)
    for rounding, words in _ROUNDINGS:
        follows = ops.ps_roi_pool(_map(), _rois(), 2, _SCALE, rounding=rounding, backend="reference")
        if _difference(actual, follows) < 1e-9:
            return f"rounds {words}", True
    return "neither published rounding", False


def _moved(function: Function) -> tuple[str, bool]:
    """Forward and all gradients of a modulated deformable pooling."""
    results = []
    for each in (function, partial(_reference_of(function), backend="reference")):
        generator = torch.Generator().manual_seed(1)
        x = _map().requires_grad_()
        offset = torch.randn(4, 2, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
        mask = torch.rand(4, 1, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
        output = each(x, _rois(), offset, 2, _SCALE, mask)
        output.square().sum().backward()
        results.append([output, *(t.grad for t in (x, offset, mask) if t.grad is not None)])
    return verdict([_difference(a, b) for a, b in zip(*results, strict=True)], 1e-9)


def _moved_second(function: Function) -> tuple[str, bool]:
    x, rois = _map()[:, :, :5, :5].clone().requires_grad_(), _rois()[:2]
    # Not -1: that would move a sample exactly onto the limit from which samples are dropped.
    offset = torch.linspace(-0.9, 0.8, 16, dtype=torch.float64).view(2, 2, 2, 2).requires_grad_()
    mask = torch.linspace(0.1, 0.9, 8, dtype=torch.float64).view(2, 1, 2, 2).requires_grad_()

    def call(x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """The pooling as a function of its differentiable inputs."""
        return function(x, rois, offset, 2, _SCALE, mask)

    ok = torch.autograd.gradcheck(call, (x, offset, mask), fast_mode=True)
    return "gradcheck and gradgradcheck pass", ok and torch.autograd.gradgradcheck(
        call, (x, offset, mask), fast_mode=True
    )


def _reference_of(function: Function) -> Function:
    """The function of this package behind a partial application of it."""
    actual: Function = getattr(function, "func", function)
    return actual


def _equal_overlap(function: Function) -> tuple[str, bool]:
    boxes = torch.tensor([[0.0, 0, 2, 1], [1, 0, 2, 1]])  # overlap exactly 1/2
    kept = function(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist()
    if kept == [0, 1]:
        return "an equal overlap stays", True
    return ("an equal overlap falls", True) if kept == [0] else (f"keeps {kept}", False)


def _greedy(function: Function) -> tuple[str, bool]:
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(300, 2, generator=generator) * 50
    boxes = torch.cat((corner, corner + 5 + torch.rand(300, 2, generator=generator) * 20), 1)
    scores = torch.linspace(1, 0, 300)[torch.randperm(300, generator=generator)]
    same = torch.equal(function(boxes, scores, 0.4), ops.nms(boxes, scores, 0.4, backend="reference"))
    empty = function(boxes[:0], scores[:0], 0.4).numel() == 0
    return ("the greedy answer" if same and empty else "differs from the greedy answer"), same and empty


def _nan_score(function: Function) -> tuple[str, bool]:
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]])
    kept = function(boxes, torch.tensor([0.5, float("nan"), 0.9]), 0.5).tolist()
    return f"order {kept}", kept == [2, 0, 1]


def _pooling(name: str, options: Sequence[tuple[Any, ...]] = ((),)) -> tuple[Rule, ...]:
    """The questions that every pooling of whole RoIs is asked."""
    reference: Function = partial(getattr(ops, name), backend="reference")
    if name == "ps_roi_pool":
        first = Rule(f"{name} rounding", _rounding, "of the RoI's corners", name)
    else:
        first = Rule(f"{name} values", _agrees(reference, options), "of four RoIs and of none", name)
    gradient = (
        ()
        if name == "ps_roi_pool"
        else (
            Rule(f"{name} gradient", _gradient(reference), "by the map", name),
            Rule(f"{name} bfloat16", _half(reference, torch.bfloat16), "half precision", name),
            Rule(f"{name} float16", _half(reference, torch.float16), "half precision", name),
        )
    )
    return (
        first,
        *gradient,
        Rule(f"{name} second", _second, "second derivatives", name),
        Rule(f"{name} NaN box", _wild, "NaN, infinite and enormous boxes", name),
    )


def _deformable(name: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{name} values", _moved, "forward and the gradients of map, offset and mask", name),
        Rule(f"{name} second", _moved_second, "gradcheck and gradgradcheck", name),
    )


RULES = (
    *_pooling("roi_align", [(0, False), (2, False), (0, True), (3, True)]),
    *_pooling("roi_pool"),
    *_pooling("ps_roi_align", [(0,), (2,)]),
    *_pooling("ps_roi_pool"),
    *_deformable("deform_roi_pool"),
    *_deformable("deform_ps_roi_pool"),
    Rule("nms values", _greedy, "300 boxes and none", "nms"),
    Rule("nms equal overlap", _equal_overlap, "an overlap equal to the threshold", "nms"),
    Rule("nms NaN score", _nan_score, "counts as the lowest", "nms"),
)
"""Poolings and suppression, for implementations that offer them."""
