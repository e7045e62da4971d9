"""Operators in torch's registry, for compilers, exporters, modes: ``dcn::<name>`` and ``dcn::<name>_backward``.

Each has a schema, a fake kernel, gradients, a vmap rule, and the forward an autocast rule. What a compiler sees of them
is the matter of :mod:`dcn.ops._inductor`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from dcn.ops import _inductor, _vmap
from dcn.ops._contract import Contract, Gradients, N, O, T, schema
from dcn.ops._second_derivatives import second_derivative

# Registrations end with the object that made them.
_LIBRARY = torch.library.Library("dcn", "FRAGMENT")


def register_forward(op: Contract[T, O, N], backward: Callable[..., list[Tensor]]) -> Callable[..., Tensor]:
    """``dcn::<name>(tensors, options) -> output``; its gradients come from the registered ``backward``."""
    count = len(op.names)

    def split(args: tuple[Any, ...]) -> tuple[T, O]:
        return op.tensors(*args[:count]), op.options(*args[count:])

    def compute(*args: Any) -> Tensor:
        op.fake(*split(args))  # for its checks: torch.ops.dcn can be called directly
        return op.compute(*split(args))

    def fake(*args: Any) -> Tensor:
        return op.fake(*split(args))

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.options = inputs[count:]
        ctx.save_for_backward(*inputs[:count])

    def derive(ctx: Any, grad: Tensor) -> Gradients:
        needs = op.needed(ctx.needs_input_grad[:count], ctx.saved_tensors)
        gradients = backward(grad, *ctx.saved_tensors, *ctx.options, list(needs))
        kept = [gradient if need else None for gradient, need in zip(gradients, needs, strict=True)]
        return (*kept, *(None for _ in ctx.options))

    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        tensors, options = split(args)
        return _vmap.forward(op, lambda t: custom(*t, *options), info.batch_size, in_dims[:count], tensors), 0

    arguments = ", ".join((*schema(op.tensors), *schema(op.options)))
    custom = torch.library.custom_op(f"dcn::{op.name}", compute, mutates_args=(), schema=f"({arguments}) -> Tensor")
    _register(custom, fake, setup, derive, vmap)
    if op.recordable is not None:
        recordable = op.recordable
        _inductor.show_kernels(custom, compute, lambda args: recordable(*split(args)))
    _register_autocast(op)
    registered: Callable[..., Tensor] = getattr(torch.ops.dcn, op.name).default
    return registered


def register_backward(op: Contract[T, O, N]) -> Callable[..., list[Tensor]]:
    """``dcn::<name>_backward(grad, tensors, options, needs) -> gradients``; an empty tensor where not needed."""
    count = 1 + len(op.names)

    def split(args: tuple[Any, ...]) -> tuple[Tensor, T, O, N]:
        tensors = op.tensors(*args[1:count])
        return args[0], tensors, op.options(*args[count:-1]), op.needed(args[-1], tensors)

    def gradients(*args: Any) -> list[Tensor]:
        return [args[0].new_empty(0) if g is None else g for g in op.differentiate(*split(args))]

    def compute(*args: Any) -> list[Tensor]:
        # Contiguous, as the fake kernel promises to the compiler whatever the inputs look like.
        return [g.contiguous() for g in gradients(*args)]

    def fake(*args: Any) -> list[Tensor]:
        grad, tensors, _, needs = split(args)
        return [
            torch.empty_like(t, memory_format=torch.contiguous_format) if need and t is not None else grad.new_empty(0)
            for need, t in zip(needs, tensors, strict=True)
        ]

    def setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        _, _, ctx.options, ctx.needs = split(inputs)
        ctx.save_for_backward(*inputs[:count])

    def derive(ctx: Any, grads: list[Tensor]) -> Gradients:
        required = ctx.needs_input_grad[:count]
        second = second_derivative(op, ctx.options, ctx.needs, tuple(grads), ctx.saved_tensors, required)
        return (*second, *(None for _ in ctx.options), None)

    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[list[Tensor], list[int | None]]:
        grad, tensors, options, needs = split(args)

        def call(grad: Tensor, joined: T) -> list[Tensor]:
            return custom(grad, *joined, *options, list(needs))

        result = _vmap.backward(op, call, needs, info.batch_size, in_dims[0], in_dims[1:count], grad, tensors)
        # An empty tensor stands for a gradient that is not needed.
        filled = [grad.new_empty(info.batch_size, 0) if g is None else g for g in result]
        return filled, [0] * len(filled)

    arguments = ", ".join(("Tensor grad", *schema(op.tensors), *schema(op.options), "bool[] needs"))
    name = f"{op.name}_backward"
    custom = torch.library.custom_op(f"dcn::{name}", compute, mutates_args=(), schema=f"({arguments}) -> Tensor[]")
    _register(custom, fake, setup, derive, vmap)
    if op.recordable is not None:
        recordable = op.recordable
        _inductor.show_kernels(custom, gradients, lambda args: recordable(*split(args)[1:3]))
    registered: Callable[..., list[Tensor]] = getattr(torch.ops.dcn, name).default
    return registered


def _register(
    custom: CustomOpDef,
    fake: Callable[..., Any],
    setup: Callable[..., None],
    derive: Callable[..., Gradients],
    vmap: Callable[..., Any],
) -> None:
    custom.register_fake(fake)
    custom.register_autograd(derive, setup_context=setup)
    custom.register_vmap(vmap)


def _register_autocast(op: Contract[T, O, N]) -> None:
    if op.autocast is None:
        return
    count = len(op.names)
    for key in (torch._C.DispatchKey.AutocastCPU, torch._C.DispatchKey.AutocastCUDA):

        def cast(*args: Any, key: torch._C.DispatchKey = key) -> Tensor:
            tensors = op.cast(op.tensors(*args[:count]))
            # Excluded, or the call would come back here; before that autocast would count as off.
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
                output: Tensor = getattr(torch.ops.dcn, op.name).default(*tensors, *args[count:])
                return output

        _LIBRARY.impl(op.name, cast, key.name)
