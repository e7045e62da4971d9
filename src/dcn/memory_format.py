"""Maps ``[N, C, *size]`` whose channels come last in memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def channels_last(value: Tensor) -> bool:
    """Whether ``[N, C, *size]`` lies in memory as ``[N, *size, C]`` and not also as ``[N, C, *size]``."""
    return not value.is_contiguous() and value.movedim(1, -1).is_contiguous()


def new_map(like: Tensor, shape: Sequence[int], last: bool) -> Tensor:
    """An empty map in type and device of ``like``.

    It is no view of another tensor: autograd refuses to change a view in place that an operator returns.

    Args:
        like: any tensor.
        shape: ``[N, C, *size]``.
        last: whether its channels come last in memory.
    """
    if not last:
        return like.new_empty(shape)
    step = shape[1]
    steps = []
    for size in reversed(shape[2:]):
        steps.append(step)
        step = step * size
    return like.new_empty_strided(shape, (step, 1, *reversed(steps)))
