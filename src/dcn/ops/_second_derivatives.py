"""Gradients that are differentiable in turn: second derivatives come from the reference backward, for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dcn.kernels.reference import fixed_order
from dcn.ops import _vmap
from dcn.ops._contract import Contract, Gradients, N, O, T


def gradients(op: Contract[T, O, N], options: O, needs: Sequence[bool], grad: Tensor, tensors: T) -> Gradients:
    """The gradients of the tensors, as a differentiable function of them and of ``grad``."""
    result: Gradients = _Backward.apply(op, options, op.needed(needs, tensors), grad, *tensors)
    return result


class _Backward(torch.autograd.Function):
    """The backward pass of an operator as a function of the output's gradient and the tensors."""

    @staticmethod
    def forward(op: Contract[T, O, N], options: O, needs: N, grad: Tensor, *tensors: Tensor | None) -> Gradients:
        return op.differentiate(grad, op.tensors(*tensors), options, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        ctx.op, ctx.options, ctx.needs, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        second = second_derivative(ctx.op, ctx.options, ctx.needs, grads, ctx.saved_tensors, ctx.needs_input_grad[3:])
        return (None, None, None, *second)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        op: Contract[T, O, N],
        options: O,
        needs: N,
        grad: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Gradients, tuple[int | None, ...]]:
        def call(grad: Tensor, joined: T) -> Gradients:
            return gradients(op, options, needs, grad, joined)

        _, _, _, grad_dim, *dims = in_dims
        result = _vmap.backward(op, call, needs, info.batch_size, grad_dim, dims, grad, op.tensors(*tensors))
        return result, tuple(None if gradient is None else 0 for gradient in result)


def second_derivative(
    op: Contract[T, O, N],
    options: O,
    needs: Sequence[bool],
    grads: Gradients,
    saved: Sequence[Tensor | None],
    required: Sequence[bool],
) -> Gradients:
    """Gradients of the backward by ``saved`` (gradient of the output, then the tensors), given those of its results.

    Where autograd records them (for third derivatives), they are differentiable in turn.
    """
    recorded = torch.is_grad_enabled()
    required = [want and varies for want, varies in zip(required, (True, *op.varies), strict=True)]
    with torch.enable_grad(), fixed_order():
        leaves = [None if t is None else _leaf(t, want, recorded) for t, want in zip(saved, required, strict=True)]
        grad, tensors = leaves[0], op.tensors(*leaves[1:])
        assert grad is not None
        results = op.reference_backward(grad, tensors, options, op.needed(needs, tensors))
        pairs = [
            (r, g) for r, g in zip(results, grads, strict=True) if r is not None and g is not None and r.requires_grad
        ]
        inputs = [leaf for leaf, want in zip(leaves, required, strict=True) if leaf is not None and want]
        if not pairs or not inputs:
            return tuple(None for _ in saved)
        outputs, weights = zip(*pairs, strict=True)
        second = iter(torch.autograd.grad(outputs, inputs, weights, allow_unused=True, create_graph=recorded))
    return tuple(
        next(second) if leaf is not None and want else None for leaf, want in zip(leaves, required, strict=True)
    )


def _leaf(tensor: Tensor, required: bool, recorded: bool) -> Tensor:
    """The tensor to differentiate by; a view where its history continues, so that one given twice counts twice."""
    return tensor.view_as(tensor) if recorded else tensor.detach().requires_grad_(required)
