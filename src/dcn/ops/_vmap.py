"""``vmap`` of an operator: all calls laid side by side in one call of the kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from dcn.ops._contract import Contract, Fold, Gradients, N, O, T

Dims = Sequence[int | None]
"""The vmapped axis of each tensor, ``None`` where all calls share it."""


def beside(tensor: Tensor | None, dim: int | None, axis: int | None, calls: int) -> Tensor | None:
    """``dim``, the vmapped axis, multiplied into ``axis``; a tensor without one is repeated."""
    if tensor is None or axis is None:
        return tensor
    if dim is not None:
        return tensor.movedim(dim, axis).flatten(axis, axis + 1)
    size = [*tensor.shape[:axis], calls, *tensor.shape[axis:]]
    return tensor.unsqueeze(axis).expand(size).flatten(axis, axis + 1)


def apart(tensor: Tensor, axis: int, calls: int) -> Tensor:
    """The inverse of :func:`beside`, with the vmapped axis in front."""
    return tensor.unflatten(axis, (calls, tensor.shape[axis] // calls)).movedim(axis, 0)


def _join(op: Contract[T, O, N], fold: Fold, calls: int, tensors: T, dims: Dims) -> T:
    """The tensors of one call that computes all."""
    named = zip(op.names, tensors, dims, strict=True)
    joined = op.tensors(*(beside(t, dim, fold.axes.get(name), calls) for name, t, dim in named))
    return joined if fold.adjust is None else fold.adjust(calls, joined)


def forward(op: Contract[T, O, N], call: Callable[[T], Tensor], calls: int, dims: Dims, tensors: T) -> Tensor:
    """The outputs of all calls, the vmapped axis in front, by one ``call(tensors)``."""
    fold = op.fold(op.needs(*(dim is not None for dim in dims)))
    return apart(call(_join(op, fold, calls, tensors, dims)), fold.output, calls)


def backward(
    op: Contract[T, O, N],
    call: Callable[[Tensor, T], Sequence[Tensor | None]],
    needs: N,
    calls: int,
    grad_dim: int | None,
    dims: Dims,
    grad: Tensor,
    tensors: T,
) -> Gradients:
    """The gradients of all calls, the vmapped axis in front, by one ``call(grad, tensors)``."""
    needs = op.needed(needs, tensors)
    fold = op.fold(op.needs(*(need or dim is not None for need, dim in zip(needs, dims, strict=True))))
    side_by_side = beside(grad, grad_dim, fold.output, calls)
    assert side_by_side is not None
    gradients = call(side_by_side, _join(op, fold, calls, tensors, dims))
    return tuple(
        apart(gradient, fold.axes[name], calls) if need and gradient is not None and name in fold.axes else None
        for name, gradient, need in zip(op.names, gradients, needs, strict=True)
    )
