"""The cases, each asking one question about an implementation. Expected values follow from the rules by hand or from
the reference of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from dcn.conformance.implementations import Function
from dcn.ops import deform_conv2d
from dcn.ops.deform_conv import output_size


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        rule: the rule's name.
        answer: what the implementation does, in a few words.
        ok: whether that is what :mod:`dcn.ops` documents; ``None``: not asked.
    """

    rule: str
    answer: str
    ok: bool | None


@dataclass(frozen=True)
class Rule:
    """A question: ``ask(function) -> (answer, ok)``; whatever it raises is the answer "error".

    Attributes:
        name: a few words for the table.
        ask: put to the implementation's function.
        meaning: what is asked, in a sentence.
        operator: the function of :mod:`dcn.ops` it is about.
        large: asked only on request: it needs much memory.
    """

    name: str
    ask: Callable[[Function], tuple[str, bool]]
    meaning: str
    operator: str = "deform_conv2d"
    large: bool = False


def examine(function: Function, rule: Rule) -> Finding:
    """Ask one question; an exception of the implementation is an answer too, and not a good one."""
    try:
        answer, ok = rule.ask(function)
    except Exception as error:  # noqa: BLE001 - anything may come out of a foreign function, and it is the answer
        first = (str(error).splitlines() or [""])[0][:90]
        return Finding(rule.name, f"error: {type(error).__name__}: {first}", False)
    return Finding(rule.name, answer, ok)


def _single(function: Function, y: float, x: float, *, grad: bool = False) -> tuple[float, list[float]]:
    """Value and offset gradient of one sample at ``(y, x)`` of the map ``10 * row + column + 1``, 4x5."""
    image = (10 * torch.arange(4.0)[:, None] + torch.arange(5.0) + 1).reshape(1, 1, 4, 5)
    location = torch.tensor([y, x]).reshape(1, 2, 1, 1).requires_grad_(grad)
    # Stride 5 leaves one output location, at (0, 0).
    output = function(image, location, torch.ones(1, 1, 1, 1), None, (5, 5), (0, 0), (1, 1), None)
    if not grad:
        return output.item(), []
    if not output.requires_grad:
        return output.item(), []
    output.sum().backward()
    return output.item(), [] if location.grad is None else location.grad.flatten().tolist()


def _boundary(function: Function) -> tuple[str, bool]:
    values = [_single(function, y, 1.0)[0] for y in (-0.5, 3.5, -1.0, 4.0)]
    if values == [1.0, 16.0, 0.0, 0.0]:
        return "v2: fades to 0 within one pixel", True
    if values == [0.0, 32.0, 0.0, 0.0]:
        return "v1: 0 above, constant below the last pixel", True
    return f"unknown: {values} at y = -0.5, 3.5, -1, 4", False


def _edge(function: Function) -> tuple[str, bool]:
    actual = _single(function, -1.0, 1.0, grad=True)[1]
    if not actual:
        return "no gradients", False
    if actual == [0.0, 0.0]:
        return "0 (as mmcv and MXNet)", True
    return f"one-sided derivative {actual[0]:g} (as torchvision)", False


def _nan(function: Function) -> tuple[str, bool]:
    values = [_single(function, float(bad), 1.0)[0] for bad in ("nan", "inf", "-inf", "1e30", "-1e30")]
    return ("counts as outside: 0", True) if values == [0.0] * 5 else (f"gives {values}", False)


@dataclass(frozen=True)
class Case:
    """Random arguments for the awkward geometry of torchvision's own tests."""

    batch: int = 2
    channels: int = 6
    outputs: int = 2
    groups: int = 2
    offset_groups: int = 3
    mask: bool = True
    dtype: torch.dtype = torch.float32
    size: tuple[int, int] = (5, 4)
    spread: float = 1.0

    def tensors(self) -> list[Tensor | None]:
        """Input, offset, weight, bias and mask; the same at every call."""
        generator = torch.Generator().manual_seed(self.batch)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)

        taps = 6 * self.offset_groups
        out = output_size(self.size, (3, 2), (2, 1), (1, 0), (2, 1))
        return [
            normal(self.batch, self.channels, *self.size),
            normal(self.batch, 2 * taps, *out) * self.spread,
            normal(self.outputs, self.channels // self.groups, 3, 2),
            normal(self.outputs),
            normal(self.batch, taps, *out).sigmoid() if self.mask else None,
        ]

    def leaves(self) -> list[Tensor | None]:
        """The same as leaves that want gradients."""
        return [None if t is None else t.requires_grad_() for t in self.tensors()]

    def run(self, function: Function, tensors: list[Tensor | None] | None = None) -> Tensor:
        """What ``function`` makes of them (or of ``tensors``)."""
        x, offset, weight, bias, mask = self.tensors() if tensors is None else tensors
        return function(x, offset, weight, bias, (2, 1), (1, 0), (2, 1), mask)


def expected_of(function: Function) -> Function:
    """The reference with the boundary rule that ``function`` follows: other rules are asked separately."""
    boundary = "v1" if _boundary(function)[0].startswith("v1") else "v2"
    return lambda *args: deform_conv2d(*args, boundary=boundary, backend="reference")


def verdict(errors: list[float], limit: float) -> tuple[str, bool]:
    """The answer to "how far from the expected values", and whether that is near enough."""
    worst = max(errors)
    return (f"agrees, error {worst:.1e}", True) if worst <= limit else (f"differs by {worst:.1e}", False)


def _compare(function: Function, cases: list[Case], limit: float) -> tuple[str, bool]:
    reference = expected_of(function)
    errors = []
    for case in cases:
        actual, expected = case.run(function).double(), case.run(reference).double()
        if actual.shape != expected.shape:
            return f"shape {list(actual.shape)} for {list(expected.shape)}", False
        errors.append((actual - expected).abs().max().item() if actual.numel() else 0.0)
    return verdict(errors, limit)


def _groups(function: Function) -> tuple[str, bool]:
    pairs = product((1, 2), (1, 2, 3, 6))
    return _compare(function, [Case(groups=g, offset_groups=q, mask=q > 1) for g, q in pairs], 1e-4)


def _depthwise(function: Function) -> tuple[str, bool]:
    return _compare(function, [Case(groups=6, outputs=6, offset_groups=1)], 1e-4)


def _far(function: Function) -> tuple[str, bool]:
    return _compare(function, [Case(spread=100.0), Case(spread=1e6)], 1e-4)


def _batches(function: Function) -> tuple[str, bool]:
    return _compare(function, [Case(batch=batch) for batch in (0, 1, 33, 37, 65)], 1e-4)


def _zero_offset(function: Function) -> tuple[str, bool]:
    x, offset, weight, bias, _ = Case(offset_groups=1).tensors()
    assert x is not None
    assert offset is not None
    assert weight is not None
    actual = function(x, torch.zeros_like(offset), weight, bias, (2, 1), (1, 0), (2, 1), None)
    expected = conv2d(x, weight, bias, (2, 1), (1, 0), (2, 1), 2)
    return verdict([(actual - expected).abs().max().item()], 1e-4)


def _memory(function: Function) -> tuple[str, bool]:
    case = Case()
    tensors = case.tensors()
    permuted = [t if t is None or t.ndim != 4 else t.to(memory_format=torch.channels_last) for t in tensors]
    reference = case.run(expected_of(function))
    return verdict([(case.run(function, permuted) - reference).abs().max().item()], 1e-4)


def _dtype(dtype: torch.dtype, limit: float) -> Callable[[Function], tuple[str, bool]]:
    return lambda function: _compare(function, [Case(dtype=dtype)], limit)


def _gradient(location: int) -> Callable[[Function], tuple[str, bool]]:
    def ask(function: Function) -> tuple[str, bool]:
        case = Case(dtype=torch.float64)
        results = []
        for each in (function, expected_of(function)):
            tensors = [None if t is None else t.requires_grad_(i == location) for i, t in enumerate(case.tensors())]
            output = case.run(each, tensors)
            if not output.requires_grad:
                return "no gradients", False
            output.square().sum().backward()
            leaf = tensors[location]
            assert leaf is not None
            assert leaf.grad is not None
            results.append(leaf.grad)
        return verdict([(results[0] - results[1]).abs().max().item()], 1e-9)

    return ask


def _wrong_calls(function: Function) -> tuple[str, bool]:
    x, offset, weight, bias, mask = Case().tensors()
    assert x is not None
    assert offset is not None
    assert weight is not None
    assert bias is not None
    assert mask is not None
    wrong = {
        "offset size": [x, offset[..., :-1], weight, bias, mask],
        "offset channels": [x, offset[:, :-1], weight, bias, mask],
        "mask channels": [x, offset, weight, bias, mask[:, :-1]],
        "weight channels": [x, offset, weight[:, :-1], bias, mask],
        "bias size": [x, offset, weight, bias[:-1], mask],
    }
    silent = []
    for name, tensors in wrong.items():
        try:
            Case().run(function, list(tensors))
        except Exception:  # noqa: BLE001 - any refusal is right here
            continue
        silent.append(name)
    return (f"computes with wrong {', '.join(silent)}", False) if silent else ("all refused", True)


RULES = (
    Rule("boundary", _boundary, "what lies around the map"),
    Rule("zero offset", _zero_offset, "equals an ordinary convolution"),
    Rule("groups", _groups, "weight groups 1, 2 with 1 to 6 offset groups, with and without mask"),
    Rule("depthwise", _depthwise, "one channel per group"),
    Rule("far offsets", _far, "offsets of hundreds and millions of pixels"),
    Rule("batch sizes", _batches, "0, 1, 33, 37 and 65 images"),
    Rule("channels_last", _memory, "tensors in another memory format"),
    Rule("float64", _dtype(torch.float64, 1e-9), "double precision"),
    Rule("float16", _dtype(torch.float16, 2e-2), "half precision, coordinates in float32"),
    Rule("bfloat16", _dtype(torch.bfloat16, 1.6e-1), "half precision, coordinates in float32"),
    Rule("gradient input", _gradient(0), "by the input"),
    Rule("gradient offset", _gradient(1), "by the offset, away from -1"),
    Rule("gradient weight", _gradient(2), "by the weight"),
    Rule("gradient bias", _gradient(3), "by the bias"),
    Rule("gradient mask", _gradient(4), "by the mask"),
    Rule("gradient at -1", _edge, "offset gradient exactly at -1, where padded layers start"),
    Rule("wrong sizes", _wrong_calls, "are refused"),
    Rule("NaN offset", _nan, "NaN, infinity and 1e30 as coordinates"),
)
"""What the function computes."""
