"""Checks of arguments: each refusal is a ValueError that names the argument, what was expected and what it got."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
LARGEST_INT = 2**31 - 1
"""What strides, paddings and dilations may be: sums of a few of them stay far within 64 bits."""
_FLOAT_NAMES = "float16, bfloat16, float32 or float64"


def int_tuple(
    name: str, value: int | Sequence[int], n: int, minimum: int, maximum: int = LARGEST_INT
) -> tuple[int, ...]:
    """``value`` as ``n`` integers from ``minimum`` to ``maximum``.

    Raises:
        ValueError: not an integer or ``n`` of them (``True`` is none), or one out of that range.
    """
    if type(value) is int and minimum <= value <= maximum:
        return (value,) * n
    if type(value) is tuple and len(value) == n:  # the usual case without generators, which cost more than the checks
        for v in value:
            if type(v) is not int or not minimum <= v <= maximum:
                break
        else:
            return value
    values = (value,) * n if isinstance(value, (int, Integral)) else value
    integers = isinstance(values, (tuple, list)) and len(values) == n and all(_integer(v) for v in values)
    if not integers or any(v < minimum for v in values):
        raise ValueError(f"{name}: expected an int or {n} ints of at least {minimum}, got {value!r}")
    if any(v > maximum for v in values):
        raise ValueError(f"{name}: expected at most {maximum}, got {value!r}")
    return tuple(int(v) for v in values)


def _integer(value: object) -> bool:
    """An int or an integer of NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: int, minimum: int, maximum: int = LARGEST_INT) -> int:
    """``value`` as an int.

    Raises:
        ValueError: not an integer from ``minimum`` to ``maximum``.
    """
    if not _integer(value) or not minimum <= value <= maximum:
        expectation = f"of at most {maximum}" if minimum <= -LARGEST_INT else f"from {minimum} to {maximum}"
        raise ValueError(f"{name}: expected an integer {expectation}, got {value!r}")
    return value if type(value) is int else int(value)


def number(name: str, value: float, *, above: float = -math.inf, finite: bool = True) -> float:
    """``value`` as a float.

    Raises:
        ValueError: no number (a bool, a string and a tensor are none), NaN, not above ``above``, or infinite where it
            must be ``finite``.
    """
    if type(value) is float and value > above and (-math.inf < value < math.inf or not finite):
        return value
    real = isinstance(value, (int, float, Real))
    if not real or isinstance(value, bool) or not value > above or (finite and not math.isfinite(value)):
        expectation = f"a {'finite ' if finite else ''}number{f' above {above:g}' if above > -math.inf else ''}"
        raise ValueError(f"{name}: expected {expectation}, got {value!r}")
    return float(value)


def flag(name: str, value: bool) -> bool:
    """``value`` as it came.

    Raises:
        ValueError: neither ``True`` nor ``False``.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return value


def tensor(name: str, value: object) -> None:
    """Refuse what is not an ordinary, dense tensor.

    Raises:
        ValueError: ``value`` is no ``torch.Tensor``, or a sparse, nested or opaque one.
    """
    if not isinstance(value, Tensor):
        advice = "convert with torch.as_tensor"
        if isinstance(value, torch.fx.Proxy):
            advice = "trace a module around the layer, name an operator in torch.fx.wrap, or use torch.export"
        raise ValueError(f"{name}: expected a torch.Tensor, got {type(value).__name__}; {advice}")
    if value.layout != torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else value.layout
        raise ValueError(f"{name}: expected a dense tensor, got a {kind} one; convert with .to_dense() or pad it")


def ndim(name: str, value: Tensor, expected: int, layout: str) -> None:
    """Refuse a tensor whose number of axes differs; ``layout`` names the axes for the message.

    Raises:
        ValueError: ``value`` is no tensor of ``expected`` axes.
    """
    tensor(name, value)
    axes(name, value.shape, expected, layout)


def axes(name: str, value: Sequence[int], expected: int, layout: str) -> None:
    """:func:`ndim` of a tensor's sizes alone.

    Raises:
        ValueError: ``value`` has not ``expected`` entries.
    """
    if len(value) != expected:
        raise ValueError(f"{name}: expected {expected} axes {layout}, got shape {list(value)}")


def shape(name: str, value: Tensor, expected: Sequence[int], why: str) -> None:
    """Refuse a tensor of another shape; ``why`` says where the expectation comes from.

    Raises:
        ValueError: ``value`` is no tensor of shape ``expected``.
    """
    tensor(name, value)
    sizes(name, value.shape, expected, why)


def sizes(name: str, value: Sequence[int], expected: Sequence[int], why: str) -> None:
    """:func:`shape` of a tensor's sizes alone.

    Raises:
        ValueError: ``value`` is not ``expected``.
    """
    if len(value) != len(expected) or any(got != want for got, want in zip(value, expected, strict=True)):
        raise ValueError(f"{name}: expected shape {list(expected)} ({why}), got {list(value)}")


def floating(name: str, value: Tensor) -> None:
    """Refuse a type that the operators do not compute.

    Raises:
        ValueError: the type is not float16, bfloat16, float32 or float64.
    """
    if value.dtype not in FLOATS:
        raise ValueError(f"{name}: expected {_FLOAT_NAMES}, got {value.dtype}; convert with .float()")


def same_dtype(name: str, value: Tensor, like: Tensor, *, or_float32: bool = False, of: str = "input") -> None:
    """Refuse a type that differs from that of ``like``, which the caller knows as ``of``.

    Args:
        name: the argument's name.
        value: the argument.
        like: the tensor whose type it must have.
        or_float32: float32 is accepted beside half-precision data (coordinates stay exact).
        of: the name of ``like``.

    Raises:
        ValueError: another type.
    """
    if value.dtype == like.dtype or (or_float32 and value.dtype == torch.float32 and like.dtype in HALVES):
        return
    raise ValueError(
        f"{name}: expected {like.dtype}, the type of {of}{' (or float32)' if or_float32 else ''}, got {value.dtype}; "
        f"convert with {name}.to({of}.dtype)"
    )


def same_device(name: str, value: Tensor, like: Tensor, of: str = "input") -> None:
    """Refuse a tensor that lies on another device than ``like``, which the caller knows as ``of``.

    Raises:
        ValueError: another device.
    """
    if value.device != like.device:
        raise ValueError(
            f"{name}: expected device {like.device}, where {of} is, got {value.device}; "
            f"move it with {name}.to({of}.device)"
        )


def beside(name: str, value: Tensor, input: Tensor, *, or_float32: bool = False) -> None:
    """Refuse a tensor whose type or device does not go with ``input``: :func:`same_dtype` and :func:`same_device`.

    Raises:
        ValueError: another type or device.
    """
    if value.dtype != input.dtype:
        same_dtype(name, value, input, or_float32=or_float32)
    if value.device != input.device:
        same_device(name, value, input)


def choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not one of ``allowed``.

    Raises:
        ValueError: ``value`` is none of them.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {list(allowed)}, got {value!r}")
