"""How a deformable convolution behaves inside torch: derivatives, transforms, compiler, threads, large tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dcn.conformance.implementations import Function
from dcn.conformance.rules import Case, Rule, expected_of, verdict

_SMALL = Case(batch=1, dtype=torch.float64)


def _on_leaves(check: Callable[..., bool], name: str) -> Callable[[Function], tuple[str, bool]]:
    def ask(function: Function) -> tuple[str, bool]:
        tensors = _SMALL.leaves()
        if not _SMALL.run(function, tensors).requires_grad:
            return "no gradients", False
        return f"{name} passes", check(lambda *t: _SMALL.run(function, list(t)), tensors, fast_mode=True)

    return ask


def _deterministic(function: Function) -> tuple[str, bool]:
    case = Case(batch=2, channels=64, outputs=48, groups=1, offset_groups=1, size=(41, 40))
    before, mode, results = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), []
    try:
        torch.use_deterministic_algorithms(True)
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            tensors = case.leaves()
            output = case.run(function, tensors)
            if output.requires_grad:
                output.square().sum().backward()
            results.append([output, *(t.grad for t in tensors if t is not None and t.grad is not None)])
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(mode)
    same = all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
    return ("same bits with 1, 2 and 3 threads" if same else "bits differ with the number of threads"), same


class _Spy(TorchDispatchMode):
    """Collects calls of registered operators that are not torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in ("aten", "prim", "prims"):
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _opcheck(function: Function) -> tuple[str, bool]:
    with _Spy() as spy:
        Case().run(function)
    if not spy.calls:
        return "no registered operator", False
    for operator, args, kwargs in spy.calls:
        leaves = tuple(a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in args)
        torch.library.opcheck(operator, leaves, kwargs)
    return f"opcheck of {spy.calls[0][0].namespace}::{spy.calls[0][0].__name__} passes", True


def _compiles(function: Function) -> tuple[str, bool]:
    case = Case()
    compiled = torch.compile(lambda *t: case.run(function, list(t)), fullgraph=True, backend="aot_eager")
    results = []
    for each in (compiled, lambda *t: case.run(function, list(t))):
        tensors = case.leaves()
        output = each(*tensors)
        output.square().sum().backward()
        results.append([output, *(t.grad for t in tensors if t is not None and t.grad is not None)])
    return verdict([(a - b).abs().max().item() for a, b in zip(*results, strict=True)], 1e-4)


class _Module(torch.nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor | None) -> Tensor:
        return Case().run(self.function, list(tensors))


def _exports(function: Function) -> tuple[str, bool]:
    tensors = tuple(Case().tensors())
    program = torch.export.export(_Module(function), tensors)
    return verdict([(program.module()(*tensors) - Case().run(function)).abs().max().item()], 1e-6)


def _autocast(function: Function) -> tuple[str, bool]:
    expected = Case().run(expected_of(function))
    with torch.autocast("cpu", torch.bfloat16):
        actual = Case().run(function)
    if actual.dtype != torch.bfloat16:
        return f"computes and returns {str(actual.dtype).removeprefix('torch.')}", False
    return verdict([(actual.float() - expected).abs().max().item()], 1.6e-1)


def _vmap(function: Function) -> tuple[str, bool]:
    first = _SMALL.tensors()
    stacked = tuple(None if t is None else torch.stack((t, t.flip(0) * 0.5)) for t in first)
    dims = tuple(None if t is None else 0 for t in stacked)
    actual = torch.func.vmap(lambda *t: _SMALL.run(function, list(t)), in_dims=dims)(*stacked)
    expected = [_SMALL.run(expected_of(function), [None if t is None else t[i] for t in stacked]) for i in (0, 1)]
    return verdict([(actual - torch.stack(expected)).abs().max().item()], 1e-9)


def _forward_mode(function: Function) -> tuple[str, bool]:
    tensors = tuple(t for t in _SMALL.tensors() if t is not None)
    tangents = tuple(torch.ones_like(t) for t in tensors)
    actual = torch.func.jvp(lambda *t: _SMALL.run(function, list(t)), tensors, tangents)[1]
    leaves = _SMALL.leaves()
    _SMALL.run(expected_of(function), leaves).sum().backward()
    expected = sum(t.grad.sum() for t in leaves if t is not None and t.grad is not None)
    return verdict([abs(float(actual.sum() - expected))], 1e-8)


def _large(function: Function) -> tuple[str, bool]:
    """2049 maps of 2**20 pixels: 2**31 elements are passed within the last map."""
    x = torch.zeros(1, 2049, 1024, 1024, dtype=torch.float16)
    x[0, -1, -1, -1] = 3.0
    offset, weight = torch.zeros(1, 2, 2, 2, dtype=x.dtype), torch.ones(1, 2049, 1, 1, dtype=x.dtype)
    actual = function(x, offset, weight, None, (1023, 1023), (0, 0), (1, 1), None)
    right = actual.flatten().tolist() == [0.0, 0.0, 0.0, 3.0]
    return ("right beyond 2**31 elements" if right else f"gives {actual.flatten().tolist()}"), right


RULES = (
    Rule("gradcheck", _on_leaves(torch.autograd.gradcheck, "gradcheck"), "gradients against differences"),
    Rule("gradgradcheck", _on_leaves(torch.autograd.gradgradcheck, "gradgradcheck"), "gradients of gradients"),
    Rule("vmap", _vmap, "all tensors vmapped, the weight too"),
    Rule("forward mode", _forward_mode, "torch.func.jvp by all tensors"),
    Rule("opcheck", _opcheck, "the registered operator keeps torch's contract"),
    Rule("torch.compile", _compiles, "in one graph, with gradients"),
    Rule("torch.export", _exports, "to a program that gives the same values"),
    Rule("autocast", _autocast, "computes in the half type of autocast"),
    Rule("deterministic", _deterministic, "in deterministic mode bits do not depend on run or number of threads"),
    Rule("over 2^31", _large, "an input of more than 2^31 elements (needs 30 GB)", large=True),
)
"""How the function behaves inside torch."""
