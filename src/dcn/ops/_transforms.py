"""Operators under the transforms of ``torch.func`` and in forward mode.

``vmap`` and one level of ``grad`` (``vjp``, ``jacrev``) have rules: :class:`Transformed`. In forward mode (``jvp``,
dual numbers), under two and more levels of ``grad`` (``hessian``) and under ``functionalize`` an operator gives way to
the plain differentiable operations that its reference is made of: :func:`beyond_rules`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dcn.ops import _vmap
from dcn.ops._contract import Contract, Gradients, N, O, T
from dcn.ops._second_derivatives import gradients


def active() -> bool:
    """Whether any transform is under way."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def beyond_rules() -> bool:
    """Whether the active transforms are more than vmaps and one level of reverse mode, which have rules."""
    kinds = torch._C._functorch.TransformType
    levels = [level.key() for level in torch._C._functorch.get_interpreter_stack() or ()]
    forward_mode = forward_ad._current_level >= 0 or kinds.Jvp in levels
    return forward_mode or kinds.Functionalize in levels or levels.count(kinds.Grad) > 1


class Transformed(torch.autograd.Function):
    """``apply(op, options, *tensors)`` under vmap and one level of torch.func's reverse mode."""

    @staticmethod
    def forward(op: Contract[T, O, N], options: O, *tensors: Tensor | None) -> Tensor:
        return op.compute(op.tensors(*tensors), options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op, ctx.options, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        tensors = ctx.op.tensors(*ctx.saved_tensors)
        return (None, None, *gradients(ctx.op, ctx.options, ctx.needs_input_grad[2:], grad, tensors))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], op: Any, options: O, *tensors: Tensor | None) -> tuple[Tensor, int]:
        def call(joined: tuple[Tensor | None, ...]) -> Tensor:
            output: Tensor = op(joined, options)
            return output

        return _vmap.forward(op, call, info.batch_size, in_dims[2:], op.tensors(*tensors)), 0
