"""Sums whose result does not depend on the order: parts become whole multiples of a small unit and are added as int64.

Atomic additions arrive in any order. In floating point that changes the last bits from run to run; whole numbers do not
round, so that deterministic mode (``torch.use_deterministic_algorithms``) needs no sorting and no second algorithm.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit_of(grad: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``[1]``: the power of 2 that parts are multiplied with, so large that any pixel's sum still fits into int64.

    A part is at most the largest gradient times the largest mask, and each bin of ``grad [R, D, P, Q]`` adds at most
    one to a value of the map. For 300 RoIs of 7 x 7 a part keeps 48 bits below the largest one. Infinity and NaN make
    the unit NaN, and with it the whole gradient.
    """
    bound = grad.abs().amax().to(dtype)
    if mask is not None:
        bound = bound * mask.abs().amax().to(dtype)
    return unit_below(bound, grad.shape[0] * grad.shape[2] * grad.shape[3])


def unit_below(bound: Tensor, parts: int) -> Tensor:
    """The same where a sum has at most ``parts`` parts, none of them larger than ``bound``."""
    bits = 62 - parts.bit_length()
    exponent = (bits - bound.frexp().exponent).clamp(max=120)
    return (torch.ldexp(torch.ones_like(bound), exponent) + 0 * bound).view(1)


def from_sums(total: Tensor, unit: Tensor | None) -> Tensor:
    """The sums as floating-point numbers; ``unit`` is ``None`` for sums that are that already."""
    return total if unit is None else total.double() / unit.double()
