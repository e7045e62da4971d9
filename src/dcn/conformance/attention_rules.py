"""Multi-scale deformable attention: which published rule an implementation follows, and whether it holds.

Functions take the arguments of :func:`dcn.ops.ms_deform_attn` in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dcn import ops
from dcn.conformance.implementations import Function
from dcn.conformance.rules import Rule, verdict

Ask = Callable[[Function], tuple[str, bool]]
_REFERENCE = partial(ops.ms_deform_attn, backend="reference")


@dataclass(frozen=True)
class _Case:
    """Sizes of a random call; a third of the samples lies outside."""

    levels: tuple[tuple[int, int], ...] = ((4, 7), (3, 2), (1, 5))
    batch: int = 2
    queries: int = 5
    heads: int = 3
    channels: int = 6
    points: int = 2
    dtype: torch.dtype = torch.float64

    def tensors(self) -> list[Tensor]:
        """The inputs of a call, the same each time."""
        random = torch.Generator().manual_seed(0)
        shapes = torch.tensor(self.levels)
        areas = shapes.prod(1)
        samples = (self.batch, self.queries, self.heads, len(self.levels), self.points)
        value = torch.randn(self.batch, int(areas.sum()), self.heads, self.channels, generator=random)
        locations = torch.randn(*samples, 2, generator=random) * 0.5 + 0.5
        weights = torch.randn(samples, generator=random)
        data = [t.to(self.dtype) for t in (value, locations, weights)]
        return [data[0], shapes, areas.cumsum(0) - areas, *data[1:]]


def _difference(first: Tensor, second: Tensor) -> float:
    if first.shape != second.shape:
        return float("inf")
    return (first.double() - second.double()).abs().max().item() if first.numel() else 0.0


def _agrees(*cases: _Case, limit: float = 1e-9) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        errors = []
        for case in cases:
            value, shapes, starts, *rest = case.tensors()
            expected = _REFERENCE(value.double(), shapes, starts, *(t.double() for t in rest))
            errors.append(_difference(function(value, shapes, starts, *rest), expected))
        return verdict(errors, limit)

    return ask


def _single(function: Function, x: float, y: float, *, grad: bool = False) -> tuple[float, list[float]]:
    """Value and gradient of one sample at ``x, y`` (shares) of the map ``10 * row + column + 1``, 4 rows of 8."""
    image = (10 * torch.arange(4.0)[:, None] + torch.arange(8.0) + 1).reshape(1, 32, 1, 1)
    location = torch.tensor([x, y]).reshape(1, 1, 1, 1, 1, 2).requires_grad_(grad)
    shapes, starts = torch.tensor([[4, 8]]), torch.zeros(1, dtype=torch.int64)
    output = function(image, shapes, starts, location, torch.ones(1, 1, 1, 1, 1))
    if grad and output.requires_grad:
        output.sum().backward()
    return output.item(), [] if location.grad is None else location.grad.flatten().tolist()


def _order(function: Function) -> tuple[str, bool]:
    actual = _single(function, 5.5 / 8, 2.5 / 4)[0]
    answers = {26.0: ("x before y, from the left edge of the first pixel", True)}
    return answers.get(actual, (f"another order or origin: {actual:g} for 26", False))


def _edges(function: Function) -> tuple[str, bool]:
    actual = [_single(function, x, 0.125)[0] for x in (0.0, 1.0, -1 / 16, 17 / 16)]
    if actual == [0.5, 4.0, 0.0, 0.0]:
        return "half a pixel beyond the border centres; fades to 0", True
    return f"unknown: {actual} at 0, 1, -1/16, 17/16", False


def _slope(function: Function) -> tuple[str, bool]:
    actual = _single(function, -1 / 16, 0.125, grad=True)[1]
    if not actual:
        return "no gradients", False
    return ("0 (as CUDA)", True) if actual == [0.0, 0.0] else (f"one-sided {actual[0]:g} (as grid_sample)", False)


def _wild(function: Function) -> tuple[str, bool]:
    actual = [_single(function, float(x), 0.5)[0] for x in ("nan", "inf", "-inf", "1e30", "-1e30")]
    return ("count as outside: 0", True) if actual == [0.0] * 5 else (f"give {actual}", False)


def _gradient(index: int) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        actual = []
        for each in (function, _REFERENCE):
            tensors = _Case().tensors()
            leaf = tensors[index].requires_grad_()
            output = each(*tensors)
            if not output.requires_grad:
                return "no gradients", False
            output.square().sum().backward()
            assert leaf.grad is not None
            actual.append(leaf.grad)
        return verdict([_difference(*actual)], 1e-9)

    return ask


def _second(function: Function) -> tuple[str, bool]:
    value, shapes, starts, *rest = _Case(((2, 3),), 1, 2, 1, 2, 1).tensors()
    leaves = [t.requires_grad_() for t in (value, *rest)]
    ok = torch.autograd.gradgradcheck(lambda v, p, w: function(v, shapes, starts, p, w), leaves, fast_mode=True)
    return "gradgradcheck passes", ok


def _starts(function: Function) -> tuple[str, bool]:
    value, shapes, starts, *rest = _Case().tensors()
    gap = torch.full_like(value[:, :4], float("nan"))
    moved = torch.cat([gap, value, gap], 1)
    return verdict(
        [_difference(function(moved, shapes, starts + 4, *rest), _REFERENCE(value, shapes, starts, *rest))], 1e-9
    )


def _wrong_calls(function: Function) -> tuple[str, bool]:
    value, shapes, starts, locations, weights = _Case().tensors()
    wrong = {
        "heads of the weights": (value, shapes, starts, locations, weights[:, :, :2]),
        "levels of the locations": (value, shapes, starts, locations[:, :, :, :2], weights),
        "batch": (value[:1], shapes, starts, locations, weights),
        "levels beyond the values": (value[:, :-1], shapes, starts, locations, weights),
        "a negative start": (value, shapes, starts - 1, locations, weights),
    }
    silent = []
    for name, call in wrong.items():
        try:
            function(*call)
        except Exception:  # noqa: BLE001 - any refusal is right here
            continue
        silent.append(name)
    return (f"computes with wrong {', '.join(silent)}", False) if silent else ("all refused", True)


_PLAIN = _Case()
_SIZES = (
    *(replace(_PLAIN, channels=channels) for channels in (1, 7, 32, 65)),
    *(replace(_PLAIN, heads=heads, points=points) for heads, points in ((1, 1), (5, 9))),
    *(replace(_PLAIN, levels=levels) for levels in (((1, 1),), ((3, 4), (0, 5), (2, 2)))),
)


def _rule(name: str, ask: Ask, meaning: str) -> Rule:
    return Rule(f"ms_deform_attn {name}", ask, meaning, "ms_deform_attn")


RULES = (
    _rule("order", _order, "x before y, 0 and 1 are the outer edges"),
    _rule("edges", _edges, "what lies beyond the outermost pixels"),
    _rule("sizes", _agrees(*_SIZES), "any number of heads, channels, levels and points, levels without pixels"),
    _rule("batches", _agrees(*(replace(_PLAIN, batch=n) for n in (0, 1, 65))), "0, 1 and 65 images"),
    _rule("no queries", _agrees(replace(_PLAIN, queries=0)), "an empty result"),
    _rule("level starts", _starts, "levels lie where level_start_index says"),
    _rule("float16", _agrees(replace(_PLAIN, dtype=torch.float16), limit=2e-2), "sums in float32"),
    _rule("bfloat16", _agrees(replace(_PLAIN, dtype=torch.bfloat16), limit=1.6e-1), "sums in float32"),
    _rule("NaN", _wild, "NaN, infinity and 1e30 as locations"),
    _rule("gradient value", _gradient(0), "by the values"),
    _rule("gradient locations", _gradient(3), "by the locations, away from -1"),
    _rule("gradient weights", _gradient(4), "by the attention weights"),
    _rule("gradient at -1", _slope, "by a location exactly one pixel before the first"),
    _rule("second", _second, "gradients of gradients"),
    _rule("wrong sizes", _wrong_calls, "are refused"),
)
"""What the function computes."""
