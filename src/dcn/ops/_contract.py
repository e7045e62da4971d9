"""What an operator is made of: one description, from which every way to call it is derived.

Arguments travel in named records (``NamedTuple``), three per operator: its tensors, its other arguments (options), and
one bool per tensor (which gradients are needed). The schema that torch.library wants follows from their fields.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]
"""One entry per tensor argument, in their order; ``None`` where not needed."""

T = TypeVar("T", bound=tuple[Tensor | None, ...])
O = TypeVar("O", bound=tuple[Any, ...])  # noqa: E741
MaybeTensor = TypeVar("MaybeTensor", Tensor, Tensor | None)
N = TypeVar("N", bound=tuple[bool, ...])

_SCHEMA_NAMES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    Sequence[int]: "int[]",
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    str | None: "str?",
}


def schema(record: Callable[..., Any]) -> tuple[str, ...]:
    """The fields of a record in the language of torch.library: ``mask: Tensor | None`` is ``"Tensor? mask"``."""
    return tuple(f"{_SCHEMA_NAMES[kind]} {name}" for name, kind in get_type_hints(record).items())


def materialized(tensor: MaybeTensor) -> MaybeTensor:
    """The tensor with its own values in memory, which is what kernels read.

    torch keeps some operations pending in a flag of the tensor: the sign of ``x.conj().imag``, and whole tensors of
    zeros, which have no memory at all (gradients of unused results).
    """
    if tensor is None or not (tensor.is_neg() or tensor._is_zerotensor()):
        return tensor
    return tensor.clone() if tensor._is_zerotensor() else tensor.resolve_neg()


def remembers(input: Tensor) -> bool:
    """Whether checks of sizes may be looked up: symbols of a compiler cannot."""
    return type(input) is Tensor and not torch.compiler.is_compiling()


@dataclass(frozen=True)
class Fold:
    """How the calls of a vmap become one call.

    Attributes:
        axes: per tensor the axis along which those of all calls are laid side by side; a tensor that is not named is
            shared by all calls.
        output: that axis of the output.
        adjust: ``(calls, tensors) -> tensors``, applied to the tensors that were laid side by side.
    """

    axes: Mapping[str, int]
    output: int
    adjust: Callable[[int, Any], Any] | None = None


@dataclass(frozen=True)
class Contract(Generic[T, O, N]):
    """One operator: tensors in, one floating tensor out, and options that are no tensors.

    Attributes:
        name: ``deform_conv`` registers ``dcn::deform_conv``.
        tensors: record of the tensor arguments, ``Tensor`` or ``Tensor | None`` each.
        options: record of the other arguments.
        needs: record with the fields of ``tensors``, a bool each.
        forward: ``(tensors, options) -> output``, by the backend that the options name.
        backward: ``(grad, tensors, options, needs) -> gradients``.
        reference_forward: ``forward`` from differentiable operations.
        reference_backward: ``backward`` from differentiable operations.
        fake: ``(tensors, options) -> empty output``; checks the call and never reads data.
        fold: ``own -> Fold``: how to lay calls side by side of which each has a tensor of its own (or needs a gradient
            of its own) where ``own`` is true.
        constant: names of tensors that never get a gradient.
        autocast: ``(tensors, dtype) -> tensors``: what autocast to ``dtype`` casts.
        recordable: ``(tensors, options) -> bool``: whether ``forward`` and ``backward`` can be traced down to launches
            of kernels that a compiler makes itself; ``None`` for never.
    """

    name: str
    tensors: Callable[..., T]
    options: Callable[..., O]
    needs: Callable[..., N]
    forward: Callable[[T, O], Tensor]
    backward: Callable[[Tensor, T, O, N], Gradients]
    reference_forward: Callable[[T, O], Tensor]
    reference_backward: Callable[[Tensor, T, O, N], Gradients]
    fake: Callable[[T, O], Tensor]
    fold: Callable[[N], Fold]
    constant: tuple[str, ...] = ()
    autocast: Callable[[T, torch.dtype], T] | None = None
    recordable: Callable[[T, O], bool] | None = None

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the tensor arguments."""
        return tuple(get_type_hints(self.tensors))

    @functools.cached_property
    def varies(self) -> tuple[bool, ...]:
        """Which tensor arguments can have a gradient."""
        return tuple(name not in self.constant for name in self.names)

    def needed(self, needs: Sequence[bool], tensors: Sequence[Tensor | None]) -> N:
        """Which gradients are computed: those that are needed, of tensors that are there and can have one."""
        given = zip(needs, tensors, self.varies, strict=True)
        return self.needs(*[bool(need) and t is not None and varies for need, t, varies in given])

    def compute(self, tensors: T, options: O) -> Tensor:
        """``forward`` of tensors that may be lazy; the output is no view, so that autograd lets it change in place."""
        output = self.forward(self._materialized(tensors), options)
        return output.clone() if output._is_view() else output

    def differentiate(self, grad: Tensor, tensors: T, options: O, needs: N) -> Gradients:
        """``backward`` of tensors that may be lazy."""
        return self.backward(materialized(grad), self._materialized(tensors), options, needs)

    def _materialized(self, tensors: T) -> T:
        for tensor in tensors:
            if tensor is not None and (tensor.is_neg() or tensor._is_zerotensor()):
                return self.tensors(*map(materialized, tensors))
        return tensors

    def cast(self, tensors: T) -> T:
        """The tensors as autocast wants them: unchanged where it is off."""
        if self.autocast is None or not (torch.compiler.is_compiling() or torch._C._is_any_autocast_enabled()):
            return tensors  # to ask for the name of the device and about that device took a tenth of a small call
        device = tensors[0].device.type if tensors[0] is not None else "cpu"
        if device == "meta" or not torch.is_autocast_enabled(device):
            return tensors
        return self.autocast(tensors, torch.get_autocast_dtype(device))
