"""Plain PyTorch, any device, any float type: the executable specification of the operators.

Clear before fast. Half precision data are computed in float32, coordinates too; float64 stays float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor


def only_if_named() -> str | None:
    """``None``: it runs where nothing faster can."""
    return None


def recordable(tensor: Tensor) -> bool:
    """``False``: it launches no kernels of its own."""
    return False


@contextmanager
def full_precision() -> Iterator[None]:
    """Without autocast, which would round what matrix products read: inputs were cast before they came here."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def fixed_order() -> Iterator[None]:
    """In torch's deterministic mode compute with one thread.

    The matrix library splits long sums among its threads: the product of a layer of 256 channels on a 20 x 20 map
    differs in its last bits from 1 to 2 threads. Outside of that mode nothing changes.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not torch.are_deterministic_algorithms_enabled():
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
