"""GPU kernels in Triton: compiled on first use by the driver's compiler, for NVIDIA and, where Triton runs, AMD.

A module per operator offers ``unsupported``, ``forward`` and ``backward`` as the other backends do and imports no
Triton; files that begin with an underscore and end in ``_kernels`` hold the kernels and are imported on first use.
"""

from __future__ import annotations

from dcn.kernels.triton._runtime import interpreted, recordable

__all__ = ["only_if_named", "recordable"]


def only_if_named() -> str | None:
    """Why these kernels do not run unless the caller names them, or ``None``."""
    if interpreted():
        return "it is interpreted (TRITON_INTERPRET=1), thousands of times slower; it runs with backend='triton' only"
    return None
