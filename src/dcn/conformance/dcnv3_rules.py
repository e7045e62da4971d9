"""DCNv3 and DCNv4: order of taps and coordinates, boundary, gradients, and the limits that the originals have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dcn import ops
from dcn.conformance.implementations import Function
from dcn.conformance.rules import Rule, verdict

Ask = Callable[[Function], tuple[str, bool]]


@dataclass(frozen=True)
class _Case:
    """Random arguments; pairs are ``(y, x)``."""

    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 2
    depth: int = 4
    scale: float = 1.0
    remove_center: bool = False
    batch: int = 2
    dtype: torch.dtype = torch.float64

    def tensors(self) -> list[Tensor]:
        """Input, offset and mask of DCNv3; the same at every call."""
        generator = torch.Generator().manual_seed(self.batch)
        size = (5, 6)
        taps = self.groups * (self.kernel[0] * self.kernel[1] - self.remove_center)
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        out = [(s + 2 * p - r - 1) // t + 1 for s, p, r, t in zip(size, self.padding, reach, self.stride, strict=True)]

        def normal(*shape: int) -> Tensor:
            """Normal numbers, the same for every call of a case."""
            return torch.randn(self.batch, *shape, generator=generator, dtype=torch.float64).to(self.dtype)

        return [normal(*size, self.groups * self.depth), normal(*out, 2 * taps), normal(*out, taps)]

    def run(self, function: Function, tensors: list[Tensor]) -> Tensor:
        """What ``function`` makes of the tensors of its operator."""
        geometry = (self.kernel, self.stride, self.padding, self.dilation)
        return function(*tensors, *geometry, self.groups, self.scale, self.remove_center)

    def given(self, operator: str, tensors: list[Tensor] | None = None) -> list[Tensor]:
        """The tensors as ``operator`` takes them: DCNv4 has offsets and masks in one."""
        input, offset, mask = self.tensors() if tensors is None else tensors
        if operator == "dcnv3":
            return [input, offset, mask]
        grouped = [t.unflatten(-1, (self.groups, t.shape[-1] // self.groups)) for t in (offset, mask)]
        joined = torch.cat(grouped, -1).flatten(-2)
        return [input, pad(joined, (0, -joined.shape[-1] % 8), value=1e3)]


def _picked(function: Function, operator: str, tap: int, move: tuple[float, float], scale: float = 1.0) -> float:
    """What tap ``tap`` of the middle location of the map ``10 * row + column``, 5x5, reads with an offset (x, y)."""
    case = _Case(groups=1, depth=1, scale=scale, batch=1)
    input = (10 * torch.arange(5.0)[:, None] + torch.arange(5.0)).double().reshape(1, 5, 5, 1)
    mask = torch.zeros(1, 5, 5, 9, dtype=torch.float64)
    mask[..., tap] = 1
    offset = torch.tensor(move, dtype=torch.float64).repeat(9).expand(1, 5, 5, 18).contiguous()
    return case.run(function, case.given(operator, [input, offset, mask]))[0, 2, 2, 0].item()


def _tap_order(operator: str) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        actual = [_picked(function, operator, tap, (0.0, 0.0)) for tap in (1, 3)]
        orders = {(21.0, 12.0): ("columns outermost", True), (12.0, 21.0): ("rows outermost", False)}
        return orders.get((actual[0], actual[1]), (f"taps 1 and 3 read {actual}", False))

    return ask


def _coordinates(operator: str) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        actual = _picked(function, operator, 4, (1.0, 0.0))
        return {23.0: ("x, then y", True), 32.0: ("y, then x", False)}.get(actual, (f"reads {actual}", False))

    return ask


def _scale(operator: str) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        actual = _picked(function, operator, 0, (0.5, 0.0), scale=2.0)
        answers = {1.0: ("scales grid and offset", True), 12.0: ("scales the offset only", False)}
        return answers.get(actual, (f"reads {actual}", False))

    return ask


def _edge(operator: str) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        case = _Case((1, 1), padding=(1, 1), groups=1, depth=1, batch=1)
        input = torch.ones(1, 5, 6, 1, dtype=torch.float64)
        offset = torch.zeros(1, 7, 8, 2, dtype=torch.float64)
        tensors = [t.requires_grad_() for t in case.given(operator, [input, offset, torch.ones_like(offset[..., :1])])]
        case.run(function, tensors).sum().backward()
        assert tensors[1].grad is not None
        actual = tensors[1].grad[0, 0, :, :2].abs().max().item()
        return ("0, as the CUDA kernels", True) if actual == 0 else (f"one-sided slope {actual:g}", False)

    return ask


def _compare(operator: str, cases: list[_Case], limit: float, *, gradients: bool = False) -> Ask:
    reference: Function = partial(getattr(ops, operator), backend="reference")

    def results(function: Function, case: _Case, dtype: torch.dtype) -> list[Tensor]:
        """The output, and with gradients those of its inputs."""
        tensors = [t.to(dtype).requires_grad_(gradients) for t in case.given(operator)]
        output = case.run(function, tensors)
        if not gradients:
            return [output]
        return [output, *torch.autograd.grad(output.square().sum(), tensors)]

    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        errors = [0.0]
        for case in cases:
            pairs = zip(results(function, case, case.dtype), results(reference, case, torch.float64), strict=True)
            errors += [
                (a.double() - b).abs().max().item() / max(1.0, b.abs().max().item()) for a, b in pairs if b.numel()
            ]
        return verdict(errors, limit)

    return ask


def _nan(operator: str) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        case, worst = _Case(groups=1, depth=1, batch=1), 0.0
        input, offset, mask = case.tensors()
        without = mask.clone()
        without[0, 2, 2, 0] = 0
        expected = case.run(partial(ops.dcnv3, backend="reference"), [input, offset, without])
        for bad in ("nan", "inf", "-inf", "1e30"):
            spoiled = offset.clone()
            spoiled[0, 2, 2, 0] = float(bad)
            actual = case.run(function, case.given(operator, [input, spoiled, mask]))
            worst = max(worst, (actual - expected).abs().nan_to_num(torch.inf).max().item())
        return ("counts as outside: 0", True) if worst < 1e-9 else (f"differs by {worst:.1e}", False)

    return ask


def _second(operator: str) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        case = _Case((2, 2), padding=(0, 0), groups=1, depth=2, batch=1)
        tensors = tuple(t.requires_grad_() for t in case.given(operator))
        ok = torch.autograd.gradgradcheck(lambda *t: case.run(function, list(t)), tensors, fast_mode=True)
        return "gradgradcheck passes", bool(ok)

    return ask


def _wrong_calls(operator: str) -> Ask:
    def ask(function: Function) -> tuple[str, bool]:
        """What the function does, and whether that is the expected answer."""
        case, silent = _Case(), []
        names = {"dcnv3": ("input", "offset", "mask"), "dcnv4": ("input", "offset_mask")}[operator]
        for index, name in enumerate(names):
            for axis in (1, 3):
                tensors: list[Any] = case.given(operator)
                tensors[index] = tensors[index].narrow(axis, 0, 3)
                try:
                    case.run(function, tensors)
                except Exception:  # noqa: BLE001 - any refusal is right here
                    continue
                silent.append(f"{name} axis {axis}")
        return (f"computes with wrong {', '.join(silent)}", False) if silent else ("all refused", True)

    return ask


_GEOMETRY = [
    _Case(stride=(2, 2), dilation=(2, 2), padding=(2, 2), groups=3, scale=0.5),
    _Case(remove_center=True, scale=1.5),
]
_ANY = [_Case((5, 5), padding=(2, 2)), _Case((2, 4)), _Case((1, 1), padding=(0, 0)), _Case(groups=3, depth=1)]


def _rules(operator: str) -> tuple[Rule, ...]:
    halves = [_Case(dtype=torch.float16), _Case(dtype=torch.bfloat16)]
    questions: tuple[tuple[str, Ask, str], ...] = (
        ("tap order", _tap_order(operator), "which of rows and columns is the outer index of the taps"),
        ("coordinates", _coordinates(operator), "which comes first"),
        ("offset_scale", _scale(operator), "what it scales"),
        ("values", _compare(operator, [_Case(), *_GEOMETRY], 1e-9), "strides, dilations, remove_center"),
        ("gradients", _compare(operator, [_Case(), *_GEOMETRY], 1e-9, gradients=True), "by every tensor"),
        ("gradient at -1", _edge(operator), "offset gradient exactly at -1, where padded layers start"),
        ("any kernel", _compare(operator, _ANY, 1e-9, gradients=True), "other numbers of taps and channels"),
        ("batch sizes", _compare(operator, [_Case(batch=b) for b in (0, 1, 2, 33)], 1e-9), "0, 1, 2 and 33 images"),
        ("half", _compare(operator, halves, 2e-2, gradients=True), "float16 and bfloat16, forward and backward"),
        ("NaN offset", _nan(operator), "NaN, infinity and 1e30 as coordinates"),
        ("second", _second(operator), "second derivatives"),
        ("wrong sizes", _wrong_calls(operator), "are refused"),
    )
    return tuple(Rule(f"{operator} {name}", ask, meaning, operator) for name, ask, meaning in questions)


RULES = (*_rules("dcnv3"), *_rules("dcnv4"))
"""For implementations with the functions ``dcnv3`` and ``dcnv4`` of :mod:`dcn.ops`."""
