"""Small arithmetic that several kernels share, rounded as the plain PyTorch operations are."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def divide(a, b):
    """``a / b`` rounded to nearest; the plain operator is an approximation in float32."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def number(bits, dtype: tl.constexpr):
    """A float64 that came as its 64 bits (a float argument of a kernel would be rounded to float32)."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def finite(value):
    """Neither NaN nor infinite."""
    return tl.abs(value) < float("inf")


@triton.jit
def round_half_away(value):
    """C's ``round``: halves go away from zero."""
    whole = tl.where(value < 0, tl.ceil(value), tl.floor(value))
    away = tl.where(value < 0, -1.0, 1.0).to(value.dtype)
    return whole + tl.where(tl.abs(value - whole) >= 0.5, away, 0.0)
