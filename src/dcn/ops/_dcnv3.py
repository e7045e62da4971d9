"""The core that DCNv3 and DCNv4 share: options, checks of the map, and the ways to a backend.

:mod:`dcn.kernels.dcnv3_geometry` says in what the two differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dcn import checks
from dcn.kernels.cpu import dcnv3 as cpu
from dcn.kernels.dcnv3_geometry import Geometry, Pair
from dcn.kernels.reference import dcnv3 as reference
from dcn.kernels.triton import dcnv3 as triton
from dcn.ops._backends import Table, check_name, choose

BACKENDS: Table = (("triton", triton), ("cpu", cpu), ("reference", reference))
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Options(NamedTuple):
    """What is no tensor, of both operators."""

    kernel_size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    offset_scale: float
    remove_center: bool
    softmax: bool
    backend: str | None

    def geometry(self) -> Geometry:
        """The same without the backend."""
        if torch.compiler.is_compiling():  # looks into no cache
            return _geometry(self)
        try:
            return _kept_geometry(self)
        except TypeError:  # torch's schemas make lists of the pairs
            return _geometry(self)


def _geometry(options: Options) -> Geometry:
    fields: Any = (*(tuple(pair) for pair in options[:4]), *options[4:8])
    return Geometry(*fields)


# To make one anew takes 3 us of a call of 35, and so it does on the way back.
_kept_geometry = functools.lru_cache(1024)(_geometry)


class Call(Protocol):
    """The tensors of one operator as the core takes them."""

    def core(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, offset and mask; without a mask the offset is DCNv4's one tensor."""


class Kind(NamedTuple):
    """What of a tensor is checked, beside what :func:`plain` tests."""

    shape: Sequence[int]
    dtype: torch.dtype
    device: torch.device


def plain(given: Sequence[Any], *tensors: Any) -> bool:
    """Whether a call may be looked up among those that fit: options and tensors of the usual types, and no autocast.

    Of such options equal ones are the same (``True`` is no 1). A compiler looks into no cache.
    """
    if torch.compiler.is_compiling() or torch._C._is_any_autocast_enabled():
        return False
    *whole, scale, remove_center, softmax, backend = given
    for value in whole:
        if type(value) is not int and not _whole_numbers(value):
            return False
    for tensor in tensors:
        if type(tensor) is not Tensor or tensor.layout is not torch.strided or tensor.is_nested:
            return False
    flags = type(remove_center) is type(softmax) is bool
    return flags and type(scale) is float and (backend is None or type(backend) is str)


def _whole_numbers(value: object) -> bool:
    return type(value) is tuple and all(type(v) is int for v in value)


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
    """The options as one record.

    Raises:
        ValueError: one is of the wrong kind or out of range, or no tap is left.
    """
    kernel = checks.int_tuple("kernel_size", kernel_size, 2, 1)
    checks.flag("remove_center", remove_center)
    if remove_center and kernel == (1, 1):
        raise ValueError(
            "remove_center: expected False with kernel_size 1, got True; no tap would be left, use a larger kernel"
        )
    check_name(BACKENDS, backend)
    return Options(
        kernel,
        checks.int_tuple("stride", stride, 2, 1),
        checks.int_tuple("padding", padding, 2, 0),
        checks.int_tuple("dilation", dilation, 2, 1),
        checks.whole("groups", groups, 1),
        checks.number("offset_scale", offset_scale),
        remove_center,
        checks.flag("softmax", softmax),
        backend,
    )


def remembered(check: Callable[[Any, Geometry], Pair], tensors: Callable[..., Any]) -> Callable[..., Options]:
    """A function that gives the options of a :func:`plain` call that fits, and remembers the calls.

    It takes the options as given, then shape, type and device of every tensor. Without memory the checks took a
    quarter of a tiny call, and code that has left the caches takes several times as long.

    Args:
        check: refuses tensors that do not fit together.
        tensors: makes a record of :class:`Kind` values for ``check``.
    """

    @functools.lru_cache(4096)
    def accepted(*call: Any) -> Options:
        options = checked_options(*call[:9])
        check(tensors(*(Kind(*call[at : at + 3]) for at in range(9, len(call), 3))), options.geometry())
        return options

    return accepted


def check_kinds(input: Tensor, **others: Tensor) -> None:
    """Refuse types that are not computed, and tensors of offsets or masks that do not go with ``input``."""
    dtype, device = input.dtype, input.device
    if dtype not in checks.FLOATS:
        checks.floating("input", input)
    for name, value in others.items():
        if value.dtype != dtype or value.device != device:
            checks.beside(name, value, input, or_float32=True)


def check_input(input: Sequence[int], geometry: Geometry) -> Pair:
    """Refuse sizes of a map that do not fit the options; the size of the output otherwise."""
    checks.axes("input", input, 4, "[N, H, W, C] (channels last)")
    if min(input[1:]) < 1:
        raise ValueError(f"input: expected at least 1 pixel and 1 channel, got shape {list(input)}")
    if input[3] % geometry.groups:
        raise ValueError(
            f"groups: expected a divisor of the {input[3]} channels of input [N, H, W, C], "
            f"got {geometry.groups}; is input channels-last?"
        )
    out = geometry.output_size(input[1], input[2])
    if min(out) < 1:
        raise ValueError(
            f"input: expected a size that gives at least one output location, got {list(input[1:3])} with "
            f"kernel {list(geometry.kernel)}, stride {list(geometry.stride)}, padding {list(geometry.padding)}, "
            f"dilation {list(geometry.dilation)} (output {list(out)}); enlarge the input or the padding"
        )
    return out


def forward(tensors: Call, options: Options) -> Tensor:
    """The output by the backend that the options name."""
    call = (*tensors.core(), options.geometry())
    output: Tensor = choose(BACKENDS, options.backend, *call).forward(*call)
    return output


def reference_forward(tensors: Call, options: Options) -> Tensor:
    """The output from differentiable operations."""
    return reference.forward(*tensors.core(), options.geometry())


def backward(grad: Tensor, tensors: Call, options: Options, needs: tuple[bool, bool, bool]) -> Gradients:
    """The gradients by the backend that the options name."""
    call = (*tensors.core(), options.geometry())
    gradients: Gradients = choose(BACKENDS, options.backend, *call).backward(grad, *call, needs)
    return gradients


def reference_backward(grad: Tensor, tensors: Call, options: Options, needs: tuple[bool, bool, bool]) -> Gradients:
    """The gradients from differentiable operations."""
    return reference.backward(grad, *tensors.core(), options.geometry(), needs)


def beside(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of coordinates as autocast to ``dtype`` wants it: float32 stays, the other half type is widened."""
    return value.float() if value.dtype in checks.HALVES and value.dtype != dtype else value
