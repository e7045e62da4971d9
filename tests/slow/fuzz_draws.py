"""What the random calls of all operators share: drawing values and sizes, spoiling one argument, checking a refusal."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BAD = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9, -3e9, 1e5)
DTYPES = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
WIDE = (torch.float32, torch.float64)


def numbers(draw: random.Random, n: int, low: int, high: int) -> tuple[int, ...]:
    """``n`` whole numbers, the ends included."""
    return tuple(draw.randint(low, high) for _ in range(n))


def relaid(draw: random.Random, tensor: Tensor) -> Tensor:
    """The same values, perhaps in another memory layout."""
    how = draw.randrange(4)
    if how == 1:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if how == 2:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    return tensor.repeat_interleave(2, dim=-1)[..., ::2] if how == 3 else tensor


def poisoned(draw: random.Random, tensor: Tensor) -> Tensor:
    """In half of the calls a tenth of the values is NaN, infinite or huge."""
    if draw.random() < 0.5:
        return tensor
    return tensor.masked_fill(torch.rand(tensor.shape) < 0.1, draw.choice(BAD))


def resized(draw: random.Random, tensor: Tensor) -> Tensor:
    """Another size along one axis: many of the calls made with it are wrong."""
    axis = draw.randrange(tensor.ndim)
    size = list(tensor.shape)
    size[axis] = max(0, size[axis] + draw.choice([-1, 1, 2]))
    return torch.zeros(size, dtype=tensor.dtype)


def spoiled(draw: random.Random, call: dict[str, Any], numbers_to_spoil: dict[str, tuple[Any, ...]]) -> bool:
    """Make one argument wrong; whether the call must be refused now (another size may happen to be right).

    Args:
        draw: source of the choice.
        call: the arguments, changed in place.
        numbers_to_spoil: values that are wrong whatever the other arguments are, by argument.
    """
    how = draw.choice(["size", "size", "axes", "type", "number"])
    if how == "number" and numbers_to_spoil:
        name = draw.choice(sorted(numbers_to_spoil))
        call[name] = draw.choice(numbers_to_spoil[name])
        return True
    name = draw.choice(sorted(name for name, value in call.items() if isinstance(value, Tensor)))
    if how == "axes":
        call[name] = call[name][None]
    elif how == "type":
        call[name] = call[name].detach().to(torch.complex64)
    else:
        call[name] = resized(draw, call[name])
    return how in ("axes", "type")


def check_refusal(function: Callable[..., Any], message: str, expected: bool) -> None:
    """A refusal must be due, and name an argument, what was expected and what came."""
    if not expected:
        raise AssertionError(f"a right call was refused: {message}")
    named = re.match(r"\w+", message)  # the first name of "boxes[0]: ...", "kept_labels, labels: ..."
    arguments = inspect.signature(function).parameters
    if not named or named[0] not in arguments or "expected" not in message or "got" not in message:
        raise AssertionError(f"a message that does not name argument, expectation and what came: {message}")


def called(function: Callable[..., Any], call: dict[str, Any], may_refuse: bool, must_refuse: bool) -> Any | None:
    """The result of a call, or None when it was refused as it should be."""
    try:
        result = function(**call)
    except ValueError as error:
        check_refusal(function, str(error), may_refuse)
        return None
    if must_refuse:
        raise AssertionError("a wrong call was computed")
    return result
