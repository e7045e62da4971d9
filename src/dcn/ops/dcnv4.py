"""DCNv4: DCNv3 with offsets and masks in one tensor and masks without a softmax. What a call means, and its checks.

Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications"
(CVPR 2024). Geometry, order of the taps and boundary are those of :func:`dcn.ops.dcnv3`, whose core computes this
operator too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dcn import checks
from dcn.kernels.dcnv3_geometry import Geometry, Pair
from dcn.ops import _dcnv3 as core
from dcn.ops._contract import Fold, Gradients
from dcn.ops._operator import Operator


class _Tensors(NamedTuple):
    input: Tensor
    offset_mask: Tensor

    def core(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.input, self.offset_mask, None


class _Needs(NamedTuple):
    input: bool
    offset_mask: bool


def _check_sizes(input: Sequence[int], offset_mask: Sequence[int], geometry: Geometry) -> Pair:
    """Refuse shapes that do not fit each other; the size of the output otherwise."""
    out = core.check_input(input, geometry)
    checks.axes("offset_mask", offset_mask, 4, "[N, Ho, Wo, R]")
    least = 3 * geometry.groups * geometry.taps
    if offset_mask[3] < least:
        raise ValueError(
            f"offset_mask: expected at least {least} channels (3 * {geometry.groups} groups * {geometry.taps} taps), "
            f"got shape {list(offset_mask)}"
        )
    why = "batch of input, size of the output, channels"
    checks.sizes("offset_mask", offset_mask, (input[0], *out, offset_mask[3]), why)
    return out


def _check(tensors: _Tensors, geometry: Geometry) -> Pair:
    """Refuse every wrong call; the size of the output otherwise."""
    input, offset_mask = tensors
    core.check_kinds(input, offset_mask=offset_mask)
    return _check_sizes(input.shape, offset_mask.shape, geometry)


_accepted = core.remembered(_check, _Tensors)


def _fake(tensors: _Tensors, options: core.Options) -> Tensor:
    input = tensors.input
    return input.new_empty((input.shape[0], *_check(tensors, options.geometry()), input.shape[3]))


def _autocast(tensors: _Tensors, dtype: torch.dtype) -> _Tensors:
    """The map to ``dtype``; coordinates stay as they came, and with them the masks beside them."""
    input, offset_mask = tensors
    if input.dtype == torch.float64:
        return tensors
    return _Tensors(input.to(dtype), core.beside(offset_mask, dtype))


def _backward(grad: Tensor, tensors: _Tensors, options: core.Options, needs: _Needs) -> Gradients:
    return core.backward(grad, tensors, options, (*needs, False))[:2]


def _reference_backward(grad: Tensor, tensors: _Tensors, options: core.Options, needs: _Needs) -> Gradients:
    return core.reference_backward(grad, tensors, options, (*needs, False))[:2]


_OPERATOR = Operator(
    name="dcnv4",
    tensors=_Tensors,
    options=core.Options,
    needs=_Needs,
    forward=core.forward,
    reference_forward=core.reference_forward,
    backward=_backward,
    reference_backward=_reference_backward,
    fake=_fake,
    # Calls become images of one call: the images of a batch share no tensor.
    fold=lambda own: Fold(dict.fromkeys(_Tensors._fields, 0), output=0),
    autocast=_autocast,
)


def dcnv4(
    input: Tensor,
    offset_mask: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    softmax: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The operator of FlashInternImage: :func:`dcn.ops.dcnv3` of one tensor of offsets and masks.

    Group ``g`` owns the ``3*K`` channels of ``offset_mask`` from ``g*3*K`` on: first ``2*K`` offsets, per tap x and y,
    then ``K`` masks. Channels from ``3*G*K`` on are ignored and their gradient is 0. The masks are used as they are:
    any real number. Unlike the original there is no rule on the number of taps, channels, images or locations.

    Args:
        input: ``[N, H, W, C]``, float16, bfloat16, float32 or float64. ``N`` may be 0.
        offset_mask: ``[N, Ho, Wo, R]`` with ``R >= 3*G*K`` (the modules round up to a multiple of 8). The type of
            ``input``, or float32 beside half precision.
        kernel_size: an int or ``(rows, columns)``.
        stride: distance of the output locations, an int or ``(y, x)``.
        padding: how far the first tap lies before the first pixel, an int or ``(y, x)``; nothing is really padded.
        dilation: distance of neighbouring taps, an int or ``(y, x)``.
        groups: ``G``, a divisor of ``C``.
        offset_scale: scales the whole tap pattern about its centre, the regular grid included.
        remove_center: leave out the tap ``(kernel // 2)``: ``K = kh*kw - 1``.
        softmax: the masks are logits, which the operator normalises over the taps of a group.
        backend: ``None`` takes the fastest that can compute the call (or ``$DCN_BACKEND``); a name insists on it.

    Returns:
        ``[N, Ho, Wo, C]`` in the type of ``input``.

    Raises:
        ValueError: an argument does not fit (the message names it, what was expected and what came), or the backend
            that was named cannot compute the call.
    """
    given = (kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax, backend)
    tensors = _Tensors(input, offset_mask)
    if core.plain(given, input, offset_mask):
        kinds = (input.shape, input.dtype, input.device, offset_mask.shape, offset_mask.dtype, offset_mask.device)
        return _OPERATOR(tensors, _accepted(*given, *kinds))
    options = core.checked_options(*given)
    for name, value in (("input", input), ("offset_mask", offset_mask)):
        checks.tensor(name, value)
    tensors = _OPERATOR.cast(tensors)
    _check(tensors, options.geometry())
    return _OPERATOR(tensors, options)
