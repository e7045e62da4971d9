"""From kernels to an operator of torch: gradients, torch.library registration, transforms.

:class:`Operator` describes an operator once; calling it takes the cheapest way that is right:

* plain eager tensors without gradients: the kernel itself;
* with gradients: an ``autograd.Function`` whose ``forward`` takes ``ctx`` (about a third of the cost per call of a
  registered operator);
* under ``torch.compile``, ``torch.export``, fake or meta tensors, tensor subclasses and dispatch modes: the registered
  operators ``dcn::<name>`` and ``dcn::<name>_backward``;
* under ``torch.func`` transforms or forward-mode differentiation: a ``Function`` with ``vmap`` and ``jvp`` rules.

Second derivatives come from the reference backward, which is made of differentiable operations, for every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

Tensors = tuple[Tensor | None, ...]
Options = tuple[Any, ...]
Needs = tuple[bool, ...]

# Registrations end with the object that made them.
_LIBRARY = torch.library.Library("dcn", "FRAGMENT")


@dataclass(frozen=True)
class Operator:
    """One operator: tensors in, one floating tensor out, and options that are no tensors.

    Attributes:
        name: ``deform_conv`` registers ``dcn::deform_conv``.
        tensors: schema of the tensor arguments in order, such as ``"Tensor? mask"``.
        options: schema of the other arguments, such as ``"int[] stride"``.
        forward: ``(tensors, options) -> output``, by the backend that the options name.
        backward: ``(grad, tensors, options, needs) -> gradients``, one entry per tensor, ``None`` where not needed.
        reference_backward: the same from differentiable operations.
        fake: ``(tensors, options) -> empty output``; checks the call and never reads data.
        tangent: ``(tangents, tensors, options) -> tangent of the output`` or ``None`` without a rule.
        fold: ``(batch, tensors, dims) -> (tensors, unfold) | None``: how a vmapped axis joins the batch axis; ``None``
            (as the rule or as its answer): call by call.
        autocast: ``(tensors, dtype) -> tensors``: what autocast to ``dtype`` casts.
    """

    name: str
    tensors: tuple[str, ...]
    options: tuple[str, ...]
    forward: Callable[[Tensors, Options], Tensor]
    backward: Callable[[Tensor, Tensors, Options, Needs], Tensors]
    reference_backward: Callable[[Tensor, Tensors, Options, Needs], Tensors]
    fake: Callable[[Tensors, Options], Tensor]
    tangent: Callable[[Tensors, Tensors, Options], Tensor] | None = None
    fold: Callable[[int, Tensors, Sequence[int | None]], tuple[Tensors, Callable[[Tensor], Tensor]] | None] | None = (
        None
    )
    autocast: Callable[[Tensors, torch.dtype], Tensors] | None = None
    registered: Callable[..., Tensor] = field(init=False, repr=False)
    registered_backward: Callable[..., list[Tensor]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "registered_backward", _register_backward(self))
        object.__setattr__(self, "registered", _register_forward(self))

    def __call__(self, tensors: Tensors, options: Options) -> Tensor:
        """Compute; the caller has applied :meth:`cast` and checked the arguments."""
        if _traced(tensors):
            return self.registered(*tensors, *options)
        if _transformed():
            return _Transformed.apply(self, options, *tensors)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            return _Eager.apply(self, options, *tensors)
        return self.forward(tensors, options)

    def cast(self, tensors: Tensors) -> Tensors:
        """The tensors as autocast wants them: unchanged where it is off."""
        device = tensors[0].device.type if tensors[0] is not None else "cpu"
        if self.autocast is None or device == "meta" or not torch.is_autocast_enabled(device):
            return tensors
        return self.autocast(tensors, torch.get_autocast_dtype(device))


def _traced(tensors: Tensors) -> bool:
    """Whether someone records or replaces operators, so that only a registered one will do."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or torch.jit._trace.is_tracing():
        return True
    return any(
        t is not None and (t.is_meta or type(t) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer)) for t in tensors
    )


def _transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class _Eager(torch.autograd.Function):
    """The quick way: no setup_context, no rules for transforms."""

    @staticmethod
    def forward(ctx: Any, op: Operator, options: Options, *tensors: Tensor | None) -> Tensor:
        ctx.op, ctx.options = op, options
        ctx.save_for_backward(*tensors)
        return op.forward(tensors, options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            return (None, None, *_gradients(ctx.op, ctx.options, needs, grad, ctx.saved_tensors))
        return (None, None, *ctx.op.backward(grad, ctx.saved_tensors, ctx.options, needs))


class _Transformed(torch.autograd.Function):
    """The same under torch.func and forward-mode differentiation."""

    @staticmethod
    def forward(op: Operator, options: Options, *tensors: Tensor | None) -> Tensor:
        return op.forward(tensors, options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op, ctx.options, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *_gradients(ctx.op, ctx.options, ctx.needs_input_grad[2:], grad, ctx.saved_tensors))

    @staticmethod
    def jvp(ctx: Any, _op: None, _options: None, *tangents: Tensor | None) -> Tensor:
        if ctx.op.tangent is None:
            raise NotImplementedError(f"dcn::{ctx.op.name} has no forward-mode rule; use reverse mode (torch.func.vjp)")
        return ctx.op.tangent(tangents, ctx.saved_tensors, ctx.options)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], op: Operator, options: Options, *tensors: Tensor | None) -> Any:
        return _vmap(op, lambda args: op(args, options), info.batch_size, in_dims[2:], tensors), 0


class _Backward(torch.autograd.Function):
    """The gradients as a differentiable function of the output's gradient and the tensors."""

    @staticmethod
    def forward(op: Operator, options: Options, needs: Needs, grad: Tensor, *tensors: Tensor | None) -> Tensors:
        return op.backward(grad, tensors, options, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.op, ctx.options, ctx.needs, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Tensors:
        second = second_derivative(ctx.op, ctx.options, ctx.needs, grads, ctx.saved_tensors, ctx.needs_input_grad[3:])
        return (None, None, None, *second)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], op: Operator, options: Options, needs: Needs, *tensors: Tensor | None
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        calls = [
            _gradients(op, options, needs, *_split(_select(tensors, in_dims[3:], place)))
            for place in range(info.batch_size)
        ]
        stacked = tuple(
            torch.stack(parts) if need else None for need, parts in zip(needs, zip(*calls, strict=True), strict=False)
        )
        return stacked, tuple(0 if need else None for need in needs)


def _split(tensors: Tensors) -> tuple[Any, Tensors]:
    return tensors[0], tensors[1:]


def _gradients(op: Operator, options: Options, needs: Needs, grad: Tensor, tensors: Tensors) -> Tensors:
    needs = tuple(need and t is not None for need, t in zip(needs, tensors, strict=True))
    return _Backward.apply(op, options, needs, grad, *tensors)


def second_derivative(
    op: Operator, options: Options, needs: Needs, grads: Tensors, saved: Tensors, wanted: Needs
) -> Tensors:
    """Gradients of the backward by ``saved`` (gradient of the output, then the tensors), given those of its results."""
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().requires_grad_(want) for t, want in zip(saved, wanted, strict=True)]
        results = op.reference_backward(*_split(tuple(leaves)), options, needs)
        pairs = [
            (r, g) for r, g in zip(results, grads, strict=True) if r is not None and g is not None and r.requires_grad
        ]
        inputs = [leaf for leaf, want in zip(leaves, wanted, strict=True) if leaf is not None and want]
        if not pairs or not inputs:
            return tuple(None for _ in saved)
        outputs, weights = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))
    return tuple(next(found) if leaf is not None and want else None for leaf, want in zip(leaves, wanted, strict=True))


def _select(tensors: Tensors, dims: Sequence[int | None], place: int) -> Tensors:
    return tuple(t if t is None or d is None else t.select(d, place) for t, d in zip(tensors, dims, strict=True))


def _vmap(
    op: Operator, call: Callable[[Tensors], Tensor], batch: int, dims: Sequence[int | None], tensors: Tensors
) -> Tensor:
    folded = op.fold(batch, tensors, dims) if op.fold is not None else None
    if folded is not None:
        arguments, unfold = folded
        return unfold(call(arguments))
    return torch.stack([call(_select(tensors, dims, place)) for place in range(batch)])


def _register_forward(op: Operator) -> Callable[..., Tensor]:
    count = len(op.tensors)
    schema = f"({', '.join((*op.tensors, *op.options))}) -> Tensor"

    def compute(*args: Any) -> Tensor:
        op.fake(args[:count], args[count:])  # for its checks: torch.ops.dcn can be called directly
        return op.forward(args[:count], args[count:])

    def fake(*args: Any) -> Tensor:
        return op.fake(args[:count], args[count:])

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.options = inputs[count:]
        ctx.save_for_backward(*inputs[:count])

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = [bool(need) for need in ctx.needs_input_grad[:count]]
        found = op.registered_backward(grad, *ctx.saved_tensors, *ctx.options, needs)
        kept = [
            g if need and t is not None else None for g, need, t in zip(found, needs, ctx.saved_tensors, strict=True)
        ]
        return (*kept, *(None for _ in op.options))

    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        options = args[count:]
        return _vmap(op, lambda t: custom(*t, *options), info.batch_size, in_dims[:count], args[:count]), 0

    custom = torch.library.custom_op(f"dcn::{op.name}", compute, mutates_args=(), schema=schema)
    custom.register_fake(fake)
    custom.register_autograd(backward, setup_context=setup)
    custom.register_vmap(vmap)
    _register_autocast(op, count)
    return getattr(torch.ops.dcn, op.name).default


def _register_autocast(op: Operator, count: int) -> None:
    if op.autocast is None:
        return
    for key in (torch._C.DispatchKey.AutocastCPU, torch._C.DispatchKey.AutocastCUDA):

        def cast(*args: Any, key: torch._C.DispatchKey = key) -> Tensor:
            tensors = op.cast(args[:count])
            # Excluded, or the call would come back here; before that autocast would count as off.
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
                return getattr(torch.ops.dcn, op.name).default(*tensors, *args[count:])

        _LIBRARY.impl(op.name, cast, key.name)


def _register_backward(op: Operator) -> Callable[..., list[Tensor]]:
    """``dcn::<name>_backward(grad, tensors, options, needs) -> gradients``; an empty tensor where not needed."""
    count = 1 + len(op.tensors)
    schema = f"({', '.join(('Tensor grad', *op.tensors, *op.options))}, bool[] needs) -> Tensor[]"

    def compute(*args: Any) -> list[Tensor]:
        grad, tensors, options, needs = args[0], args[1:count], args[count:-1], tuple(args[-1])
        wanted = tuple(need and t is not None for need, t in zip(needs, tensors, strict=True))
        found = op.backward(grad, tensors, options, wanted)
        # Contiguous, as the fake kernel promises to the compiler whatever the inputs look like.
        return [grad.new_empty(0) if g is None else g.contiguous() for g in found]

    def fake(*args: Any) -> list[Tensor]:
        grad, tensors, needs = args[0], args[1:count], args[-1]
        return [
            torch.empty_like(t, memory_format=torch.contiguous_format) if need and t is not None else grad.new_empty(0)
            for need, t in zip(needs, tensors, strict=True)
        ]

    def setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        ctx.options, ctx.needs = inputs[count:-1], tuple(inputs[-1])
        ctx.save_for_backward(*inputs[:count])

    def backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        needs = tuple(need and t is not None for need, t in zip(ctx.needs, saved[1:], strict=True))
        wanted = ctx.needs_input_grad[:count]
        return (
            *second_derivative(op, ctx.options, needs, tuple(grads), saved, wanted),
            *(None for _ in op.options),
            None,
        )

    custom = torch.library.custom_op(f"dcn::{op.name}_backward", compute, mutates_args=(), schema=schema)
    custom.register_fake(fake)
    custom.register_autograd(backward, setup_context=setup)
    return getattr(torch.ops.dcn, f"{op.name}_backward").default
