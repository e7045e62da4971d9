"""Whether shapes may depend on values, and copies to the device that the host does not wait for.

A GPU computes while the host runs ahead. The host would have to wait if it asked how many boxes there are, so between
image and final result the number of slots is fixed and a mask says which are filled; the filled ones come first. On
the CPU there is nothing to wait for and empty slots would only cost time: there they are cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class _Shapes:
    """Whether :func:`fixed_shapes` is active."""

    forced = False


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """Inside, shapes are fixed on every device, as a CUDA graph or a trace needs it."""
    before, _Shapes.forced = _Shapes.forced, True
    try:
        yield
    finally:
        _Shapes.forced = before


def shapes_are_fixed(tensor: Tensor) -> bool:
    """Whether no shape may depend on values: everywhere but in eager mode on the CPU."""
    return _Shapes.forced or tensor.device.type != "cpu" or torch.compiler.is_compiling()


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """A copy on ``device``; the host does not wait for it."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)
