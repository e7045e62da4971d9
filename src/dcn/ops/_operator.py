"""From kernels to an operator of torch: the plain path.

:class:`Operator` describes an operator once; calling it takes the cheapest way that is right:

* plain eager tensors without gradients: the kernel itself;
* with gradients: an ``autograd.Function`` whose ``forward`` takes ``ctx`` (about a third of the cost per call of a
  registered operator);
* under ``torch.compile``, ``torch.export``, fake or meta tensors, tensor subclasses, dispatch modes and the profiler
  (which then shows them by name): the registered operators of :mod:`dcn.ops._registration`;
* under the transforms of ``torch.func`` and in forward mode: :mod:`dcn.ops._transforms`.

Second derivatives: :mod:`dcn.ops._second_derivatives`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch

from dcn.kernels.reference import fixed_order
from dcn.ops import _transforms
from dcn.ops._contract import Contract, Gradients, N, O, T
from dcn.ops._registration import register_backward, register_forward
from dcn.ops._second_derivatives import gradients

_profiled: Callable[[], bool] = torch._C._autograd._profiler_enabled
_PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


@dataclass(frozen=True)
class Operator(Contract[T, O, N]):
    """An operator that can be called and is registered as ``dcn::<name>`` and ``dcn::<name>_backward``.

    Attributes:
        registered: the forward in torch's registry.
    """

    registered: Callable[..., Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "registered", register_forward(self, register_backward(self)))

    def __call__(self, tensors: T, options: O) -> Tensor:
        """Compute; the caller has applied :meth:`cast` and checked the arguments."""
        if torch.compiler.is_compiling():
            return self.registered(*tensors, *options)
        transformed = _transforms.active()
        if transformed and _transforms.beyond_rules():
            with fixed_order():
                return self.reference_forward(tensors, options)
        if traced(tensors):
            return self.registered(*tensors, *options)
        if transformed:
            output: Tensor = _transforms.Transformed.apply(self, options, *tensors)
            return output
        if torch.is_grad_enabled() and _require_grad(tensors):
            output = _apply(self, options, *[None if t is None else _unwrap_if_dead(t) for t in tensors])
            return output
        return self.compute(tensors, options)


def traced(tensors: Sequence[Tensor | None]) -> bool:
    """Whether someone records or replaces operators, so that only a registered one will do."""
    # As is_in_torch_dispatch_mode() and torch.jit.is_tracing(), without their frames.
    if _python_dispatch._is_in_torch_dispatch_mode or torch._C._is_tracing() or _profiled():
        return True
    # Not any(...): a generator costs as much as all its tests.
    for t in tensors:  # noqa: SIM110
        if t is not None and ((type(t) is not Tensor and type(t) not in _PLAIN) or t.is_meta):
            return True
    return False


def _require_grad(tensors: Sequence[Tensor | None]) -> bool:
    for t in tensors:  # noqa: SIM110
        if t is not None and t.requires_grad:
            return True
    return False


class _Eager(torch.autograd.Function):
    """``apply(op, options, *tensors)``, the quick way: no setup_context, no rules for transforms."""

    @staticmethod
    def forward(ctx: Any, op: Operator[T, O, N], options: O, *tensors: Tensor | None) -> Tensor:
        ctx.op, ctx.options = op, options
        ctx.save_for_backward(*tensors)
        return op.compute(op.tensors(*tensors), options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        op, options = ctx.op, ctx.options
        tensors = op.tensors(*ctx.saved_tensors)
        needs = op.needed(ctx.needs_input_grad[2:], tensors)
        if torch._C._functorch.is_legacy_batchedtensor(grad):
            # torch.autograd.grad(..., is_grads_batched=True): the first vmap, which knows no rules but torch's own.
            return (None, None, *op.reference_backward(grad, tensors, options, needs))
        if torch.is_grad_enabled():
            return (None, None, *gradients(op, options, needs, grad, tensors))
        return (None, None, *op.differentiate(grad, tensors, options, needs))


# Without torch's own layer, which asks again about transforms: 40 us of a call with cold caches. What that layer does
# to tensors that outlived their transform is done here.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _Eager).apply
_unwrap_if_dead: Callable[[Tensor], Tensor] = torch._C._functorch.unwrap_if_dead
