"""CPU backend: thin ctypes callers of one C++ library (``csrc/``), one module per operator."""

from __future__ import annotations

from torch import Tensor


def only_if_named() -> str | None:
    """``None``: it runs wherever it can."""
    return None


def recordable(tensor: Tensor) -> bool:
    """``False``: a compiler calls the library as a unit."""
    return False
