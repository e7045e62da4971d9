"""The core that DCNv3 and DCNv4 share: options, checks of the map, and the ways to a backend.

:mod:`dcn.kernels.dcnv3_geometry` says in what the two differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from dcn.kernels.cpu import dcnv3 as cpu
from dcn.kernels.dcnv3_geometry import Geometry, Pair
from dcn.kernels.reference import dcnv3 as reference
from dcn.kernels.triton import dcnv3 as triton
from dcn.ops import _checks
from dcn.ops._backends import Table, check_name, choose
from dcn.ops._register import Fold, Needs, Options, Tensors

BACKENDS: Table = (("triton", triton), ("cpu", cpu), ("reference", reference))
OPTIONS = (
    *("int[] kernel_size", "int[] stride", "int[] padding", "int[] dilation", "int groups"),
    *("float offset_scale", "bool remove_center", "bool softmax", "str? backend"),
)
"""Schema of the options of both operators."""


def geometry_of(options: Options) -> Geometry:
    """The options of a call without its backend."""
    pairs = [cast("Pair", tuple(pair)) for pair in options[:4]]
    return Geometry(pairs[0], pairs[1], pairs[2], pairs[3], *options[4:8])


def checked_options(
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
    softmax: bool,
    backend: str | None,
) -> Options:
    """The options in the order of :data:`OPTIONS`.

    Raises:
        ValueError: one is of the wrong kind or out of range, or no tap is left.
    """
    kernel = _checks.int_tuple("kernel_size", kernel_size, 2, 1)
    _checks.flag("remove_center", remove_center)
    if remove_center and kernel == (1, 1):
        raise ValueError(
            "remove_center: expected False with kernel_size 1, got True; no tap would be left, use a larger kernel"
        )
    check_name(BACKENDS, backend)
    return (
        kernel,
        _checks.int_tuple("stride", stride, 2, 1),
        _checks.int_tuple("padding", padding, 2, 0),
        _checks.int_tuple("dilation", dilation, 2, 1),
        _checks.whole("groups", groups, 1),
        _checks.number("offset_scale", offset_scale),
        remove_center,
        _checks.flag("softmax", softmax),
        backend,
    )


def check_input(input: Tensor, geometry: Geometry) -> Pair:
    """Refuse a map that does not fit the options; the size of the output otherwise."""
    _checks.ndim("input", input, 4, "[N, H, W, C] (channels last)")
    _checks.floating("input", input)
    if min(input.shape[1:]) < 1:
        raise ValueError(f"input: expected at least 1 pixel and 1 channel, got shape {list(input.shape)}")
    if input.shape[3] % geometry.groups:
        raise ValueError(
            f"groups: expected a divisor of the {input.shape[3]} channels of input [N, H, W, C], "
            f"got {geometry.groups}; is input channels-last?"
        )
    out = geometry.output_size(input.shape[1], input.shape[2])
    if min(out) < 1:
        raise ValueError(
            f"input: expected a size that gives at least one output location, got {list(input.shape[1:3])} with "
            f"kernel {list(geometry.kernel)}, stride {list(geometry.stride)}, padding {list(geometry.padding)}, "
            f"dilation {list(geometry.dilation)} (output {list(out)}); enlarge the input or the padding"
        )
    return out


def check_beside(name: str, value: Tensor, input: Tensor) -> None:
    """Refuse a tensor of offsets or masks whose type or device does not go with ``input``."""
    _checks.floating(name, value)
    _checks.same_dtype(name, value, input, or_float32=True)
    _checks.same_device(name, value, input)


def _core(tensors: Tensors) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, offset and mask of the core; DCNv4 has no mask of its own."""
    input, offset = cast("tuple[Tensor, Tensor]", tensors[:2])
    return input, offset, tensors[2] if len(tensors) == 3 else None


def forward(tensors: Tensors, options: Options) -> Tensor:
    """The output by the backend that the options name."""
    call = (*_core(tensors), geometry_of(options))
    output: Tensor = choose(BACKENDS, options[-1], *call).forward(*call)
    return output


def reference_forward(tensors: Tensors, options: Options) -> Tensor:
    """The output from differentiable operations."""
    return reference.forward(*_core(tensors), geometry_of(options))


def backward(grad: Tensor, tensors: Tensors, options: Options, needs: Needs) -> Tensors:
    """The gradients by the backend that the options name."""
    call = (*_core(tensors), geometry_of(options))
    return _gradients(choose(BACKENDS, options[-1], *call).backward(grad, *call, _wanted(needs)), tensors)


def reference_backward(grad: Tensor, tensors: Tensors, options: Options, needs: Needs) -> Tensors:
    """The gradients from differentiable operations."""
    return _gradients(reference.backward(grad, *_core(tensors), geometry_of(options), _wanted(needs)), tensors)


def _wanted(needs: Needs) -> tuple[bool, bool, bool]:
    return needs[0], needs[1], len(needs) == 3 and needs[2]


def _gradients(found: Tensors, tensors: Tensors) -> Tensors:
    return found[: len(tensors)]


def fold(dims: Sequence[int | None], needs: Needs | None) -> Fold:
    """Calls become images of one call: no tensor is shared by the images of a batch."""
    return Fold((0,) * len(dims), 0)


def beside(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of coordinates as autocast to ``dtype`` wants it: float32 stays, the other half type is widened."""
    return value.float() if value.dtype in _checks.HALVES and value.dtype != dtype else value
