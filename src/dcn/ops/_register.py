"""From kernels to an operator of torch: gradients, torch.library registration, transforms.

:class:`Operator` describes an operator once; calling it takes the cheapest way that is right:

* plain eager tensors without gradients: the kernel itself;
* with gradients: an ``autograd.Function`` whose ``forward`` takes ``ctx`` (about a third of the cost per call of a
  registered operator);
* under ``torch.compile``, ``torch.export``, fake or meta tensors, tensor subclasses and dispatch modes: the registered
  operators ``dcn::<name>`` and ``dcn::<name>_backward``; the compiler behind ``torch.compile`` takes them apart into
  launches of Triton kernels where these are what would run (:func:`_show_kernels`);
* under ``torch.func`` ``vmap`` and one level of ``grad`` (``vjp``, ``jacrev``): a ``Function`` whose ``vmap`` rules lay
  all calls side by side in one call of the kernel;
* in forward mode (``jvp``, dual numbers), under two and more levels of ``grad`` (``hessian``) and under
  ``functionalize``: the reference forward as the plain differentiable operations that it is made of.

Second derivatives come from the reference backward, made of differentiable operations too, for every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dcn.kernels.reference import fixed_order
from dcn.kernels.triton._runtime import record

Tensors = tuple[Tensor | None, ...]
Options = tuple[Any, ...]
Needs = tuple[bool, ...]

# Registrations end with the object that made them.
_LIBRARY = torch.library.Library("dcn", "FRAGMENT")


@dataclass(frozen=True)
class Fold:
    """How the calls of a vmap become one call: the axis of each tensor along which they are laid side by side.

    Attributes:
        tensors: that axis per tensor argument, ``None`` for a tensor that all calls share.
        output: that axis of the output.
        adjust: ``(calls, tensors) -> tensors``: applied to the tensors that were laid side by side.
    """

    tensors: tuple[int | None, ...]
    output: int
    adjust: Callable[[int, Tensors], Tensors] | None = None

    def join(self, calls: int, tensors: Tensors, dims: Sequence[int | None]) -> Tensors:
        """The tensors of one call that computes all."""
        joined = tuple(_beside(t, dim, axis, calls) for t, dim, axis in zip(tensors, dims, self.tensors, strict=True))
        return joined if self.adjust is None else self.adjust(calls, joined)


def _beside(tensor: Tensor | None, dim: int | None, axis: int | None, calls: int) -> Tensor | None:
    """``dim``, the vmapped axis, multiplied into ``axis``; a tensor without one is repeated."""
    if tensor is None or axis is None:
        return tensor
    if dim is not None:
        return tensor.movedim(dim, axis).flatten(axis, axis + 1)
    size = [*tensor.shape[:axis], calls, *tensor.shape[axis:]]
    return tensor.unsqueeze(axis).expand(size).flatten(axis, axis + 1)


def _apart(tensor: Tensor, axis: int, calls: int) -> Tensor:
    """The inverse of :func:`_beside`, with the vmapped axis in front."""
    return tensor.unflatten(axis, (calls, tensor.shape[axis] // calls)).movedim(axis, 0)


@dataclass(frozen=True)
class Operator:
    """One operator: tensors in, one floating tensor out, and options that are no tensors.

    Attributes:
        name: ``deform_conv`` registers ``dcn::deform_conv``.
        tensors: schema of the tensor arguments in order, such as ``"Tensor? mask"``.
        options: schema of the other arguments, such as ``"int[] stride"``.
        forward: ``(tensors, options) -> output``, by the backend that the options name.
        backward: ``(grad, tensors, options, needs) -> gradients``, one entry per tensor, ``None`` where not needed.
        reference_forward: ``forward`` from differentiable operations.
        reference_backward: ``backward`` from differentiable operations.
        fake: ``(tensors, options) -> empty output``; checks the call and never reads data.
        fold: ``(dims, needs) -> Fold``: how to lay calls side by side whose tensors are vmapped along ``dims``, for the
            output or, with ``needs``, for gradients, each of which is wanted once per call.
        autocast: ``(tensors, dtype) -> tensors``: what autocast to ``dtype`` casts.
        recordable: ``(tensors, options) -> bool``: whether ``forward`` and ``backward`` can be traced down to launches
            of kernels that a compiler makes itself; ``None`` for never.
    """

    name: str
    tensors: tuple[str, ...]
    options: tuple[str, ...]
    forward: Callable[[Tensors, Options], Tensor]
    reference_forward: Callable[[Tensors, Options], Tensor]
    backward: Callable[[Tensor, Tensors, Options, Needs], Tensors]
    reference_backward: Callable[[Tensor, Tensors, Options, Needs], Tensors]
    fake: Callable[[Tensors, Options], Tensor]
    fold: Callable[[Sequence[int | None], Needs | None], Fold]
    autocast: Callable[[Tensors, torch.dtype], Tensors] | None = None
    recordable: Callable[[Tensors, Options], bool] | None = None
    registered: Callable[..., Tensor] = field(init=False, repr=False)
    registered_backward: Callable[..., list[Tensor]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "registered_backward", _register_backward(self))
        object.__setattr__(self, "registered", _register_forward(self))

    def __call__(self, tensors: Tensors, options: Options) -> Tensor:
        """Compute; the caller has applied :meth:`cast` and checked the arguments."""
        if torch.compiler.is_compiling():
            return self.registered(*tensors, *options)
        transformed = _transformed()
        if transformed and _beyond_rules():
            with fixed_order():
                return self.reference_forward(tensors, options)
        if traced(tensors):
            return self.registered(*tensors, *options)
        if transformed:
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


def traced(tensors: Tensors) -> bool:
    """Whether someone records or replaces operators, so that only a registered one will do."""
    if is_in_torch_dispatch_mode() or torch.jit._trace.is_tracing():
        return True
    return any(
        t is not None and (t.is_meta or type(t) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer)) for t in tensors
    )


def _transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _beyond_rules() -> bool:
    """Whether the active transforms are more than vmaps and one level of reverse mode, which have rules."""
    kinds = torch._C._functorch.TransformType
    active = [level.key() for level in torch._C._functorch.get_interpreter_stack() or ()]
    forward_mode = forward_ad._current_level >= 0 or kinds.Jvp in active
    return forward_mode or kinds.Functionalize in active or active.count(kinds.Grad) > 1


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
        if torch._C._functorch.is_legacy_batchedtensor(grad):
            # torch.autograd.grad(..., is_grads_batched=True): the first vmap, which knows no rules but torch's own.
            return (None, None, *ctx.op.reference_backward(grad, ctx.saved_tensors, ctx.options, needs))
        if torch.is_grad_enabled():
            return (None, None, *_gradients(ctx.op, ctx.options, needs, grad, ctx.saved_tensors))
        return (None, None, *ctx.op.backward(grad, ctx.saved_tensors, ctx.options, needs))


class _Transformed(torch.autograd.Function):
    """The same under vmap and one level of torch.func's reverse mode."""

    @staticmethod
    def forward(op: Operator, options: Options, *tensors: Tensor | None) -> Tensor:
        return op.forward(tensors, options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op, ctx.options, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *_gradients(ctx.op, ctx.options, ctx.needs_input_grad[2:], grad, ctx.saved_tensors))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], op: Operator, options: Options, *tensors: Tensor | None) -> Any:
        fold = op.fold(in_dims[2:], None)
        output = op(fold.join(info.batch_size, tensors, in_dims[2:]), options)
        return _apart(output, fold.output, info.batch_size), 0


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
    def backward(ctx: Any, *grads: Tensor | None) -> Tensors:
        second = second_derivative(ctx.op, ctx.options, ctx.needs, grads, ctx.saved_tensors, ctx.needs_input_grad[3:])
        return (None, None, None, *second)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], op: Operator, options: Options, needs: Needs, *tensors: Tensor | None
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        def call(grad: Tensor, joined: Tensors) -> Tensors:
            return _gradients(op, options, needs, grad, joined)

        found = _vmap_backward(op, call, needs, info.batch_size, in_dims[3:], tensors)
        return found, tuple(None if gradient is None else 0 for gradient in found)


def _split(tensors: Tensors) -> tuple[Any, Tensors]:
    return tensors[0], tensors[1:]


def _vmap_backward(
    op: Operator,
    call: Callable[[Tensor, Tensors], Sequence[Tensor | None]],
    needs: Needs,
    calls: int,
    dims: Sequence[int | None],
    tensors: Tensors,
) -> Tensors:
    """The gradients of all calls, the vmapped axis in front, by one ``call(grad, tensors)``."""
    grad, saved = _split(tensors)
    wanted = tuple(need and t is not None for need, t in zip(needs, saved, strict=True))
    fold = op.fold(dims[1:], wanted)
    side_by_side = _beside(grad, dims[0], fold.output, calls)
    assert side_by_side is not None
    found = call(side_by_side, fold.join(calls, saved, dims[1:]))
    return tuple(
        _apart(gradient, axis, calls) if want and gradient is not None and axis is not None else None
        for gradient, axis, want in zip(found, fold.tensors, wanted, strict=True)
    )


def _gradients(op: Operator, options: Options, needs: Needs, grad: Tensor, tensors: Tensors) -> Tensors:
    needs = tuple(need and t is not None for need, t in zip(needs, tensors, strict=True))
    return _Backward.apply(op, options, needs, grad, *tensors)


def second_derivative(
    op: Operator, options: Options, needs: Needs, grads: Tensors, saved: Tensors, wanted: Needs
) -> Tensors:
    """Gradients of the backward by ``saved`` (gradient of the output, then the tensors), given those of its results.

    Where autograd records them (for third derivatives), they are differentiable in turn.
    """
    recorded = torch.is_grad_enabled()
    with torch.enable_grad(), fixed_order():
        leaves = [None if t is None else _leaf(t, want, recorded) for t, want in zip(saved, wanted, strict=True)]
        results = op.reference_backward(*_split(tuple(leaves)), options, needs)
        pairs = [
            (r, g) for r, g in zip(results, grads, strict=True) if r is not None and g is not None and r.requires_grad
        ]
        inputs = [leaf for leaf, want in zip(leaves, wanted, strict=True) if leaf is not None and want]
        if not pairs or not inputs:
            return tuple(None for _ in saved)
        outputs, weights = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs, inputs, weights, allow_unused=True, create_graph=recorded))
    return tuple(next(found) if leaf is not None and want else None for leaf, want in zip(leaves, wanted, strict=True))


def _leaf(tensor: Tensor, wanted: bool, recorded: bool) -> Tensor:
    """The tensor to differentiate by; a view where its history goes on, so that one given twice counts twice."""
    return tensor.view_as(tensor) if recorded else tensor.detach().requires_grad_(wanted)


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
        fold = op.fold(in_dims[:count], None)
        output = custom(*fold.join(info.batch_size, args[:count], in_dims[:count]), *args[count:])
        return _apart(output, fold.output, info.batch_size), 0

    custom = torch.library.custom_op(f"dcn::{op.name}", compute, mutates_args=(), schema=schema)
    custom.register_fake(fake)
    custom.register_autograd(backward, setup_context=setup)
    custom.register_vmap(vmap)
    _show_kernels(op, custom, compute, slice(0, count), slice(count, None))
    _register_autocast(op, count)
    return getattr(torch.ops.dcn, op.name).default


def _show_kernels(
    op: Operator, custom: CustomOpDef, compute: Callable[..., Any], tensors: slice, options: slice
) -> None:
    """Let a compiler launch the kernels itself: the operator in its graph gives way to what ``compute`` does.

    That happens where AOTAutograd makes a graph functional, below autograd and autocast, and not for ``torch.export``,
    whose programs shall run elsewhere. ``torch.library.triton_op`` does the same, but for every device.

    Args:
        op: the operator.
        custom: its registration, of the forward or of the backward pass.
        compute: what it does.
        tensors: which arguments of ``custom`` are those of ``op``.
        options: which are its options.
    """
    recordable = op.recordable
    if recordable is None:
        return

    def trace(mode: Any, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        foreign = any(not issubclass(t, FakeTensor) and t not in (Tensor, FunctionalTensor) for t in types)
        exported = not getattr(torch._functorch.config, "decompose_custom_triton_ops", False)
        if foreign or exported or kwargs or not recordable(args[tensors], args[options]):
            return mode.__torch_dispatch__(func, types, args, kwargs)
        with mode, record():
            return compute(*args)

    custom.register_torch_dispatch(FunctionalTensorMode, trace)


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

    def gradients(*args: Any) -> list[Tensor]:
        grad, tensors, options, needs = args[0], args[1:count], args[count:-1], tuple(args[-1])
        wanted = tuple(need and t is not None for need, t in zip(needs, tensors, strict=True))
        return [grad.new_empty(0) if g is None else g for g in op.backward(grad, tensors, options, wanted)]

    def compute(*args: Any) -> list[Tensor]:
        # Contiguous, as the fake kernel promises to the compiler whatever the inputs look like.
        return [g.contiguous() for g in gradients(*args)]

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

    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[list[Tensor], list[int | None]]:
        options, needs = args[count:-1], tuple(args[-1])

        def call(grad: Tensor, joined: Tensors) -> list[Tensor]:
            return custom(grad, *joined, *options, list(needs))

        found = _vmap_backward(op, call, needs, info.batch_size, in_dims[:count], args[:count])
        # An empty tensor stands for a gradient that is not wanted.
        filled = [args[0].new_empty(info.batch_size, 0) if g is None else g for g in found]
        return filled, [0] * len(filled)

    custom = torch.library.custom_op(f"dcn::{op.name}_backward", compute, mutates_args=(), schema=schema)
    custom.register_fake(fake)
    custom.register_autograd(backward, setup_context=setup)
    custom.register_vmap(vmap)
    _show_kernels(op, custom, gradients, slice(1, count), slice(count, -1))
    return getattr(torch.ops.dcn, f"{op.name}_backward").default
