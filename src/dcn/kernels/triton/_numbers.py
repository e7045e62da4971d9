"""Numbers as kernels get them."""

from __future__ import annotations

import struct


def bits_of(value: float) -> int:
    """A float64 as the integer of the same 64 bits; a float argument of a kernel would be rounded to float32."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def power_above(value: int) -> int:
    """The least power of 2 that is not below ``value``, as the sides of tiles must be."""
    return 1 << (value - 1).bit_length()
