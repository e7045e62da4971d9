"""What to do when memory runs out: the error names the keys of the recipe that lower its use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# PyTorch has no type of its own for the CPU's allocator.
_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory", "out of memory")


class OutOfMemoryError(ValueError):
    """Memory ran out; the message says what lowers its use."""


@contextmanager
def memory_advice(what: str, advice: str) -> Iterator[None]:
    """Turn an allocator's error into one that says what was running and what to change.

    Args:
        what: the work and its size, such as ``"step 12 with schedule.batch_size=16"``.
        advice: which keys to change.

    Raises:
        OutOfMemoryError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        detail = " ".join(str(error).split())[:200]
        raise OutOfMemoryError(f"memory ran out in {what}; {advice} ({detail})") from error


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _CPU_ALLOCATOR)
