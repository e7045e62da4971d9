"""DCNv4: DCNv3 with offsets and masks in one tensor and masks without a softmax. What a call means, and its checks.

Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications"
(CVPR 2024). Geometry, order of the taps and boundary are those of :func:`dcn.ops.dcnv3`, whose core computes this
operator too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from dcn.kernels.dcnv3_geometry import Geometry, Pair
from dcn.ops import _checks
from dcn.ops import _dcnv3 as core
from dcn.ops._register import Operator, Options, Tensors


def _check(tensors: Tensors, geometry: Geometry) -> Pair:
    input, offset_mask = cast("tuple[Tensor, Tensor]", tensors)
    out = core.check_input(input, geometry)
    _checks.ndim("offset_mask", offset_mask, 4, "[N, Ho, Wo, R]")
    core.check_beside("offset_mask", offset_mask, input)
    least = 3 * geometry.groups * geometry.taps
    if offset_mask.shape[3] < least:
        raise ValueError(
            f"offset_mask: expected at least {least} channels (3 * {geometry.groups} groups * {geometry.taps} taps), "
            f"got shape {list(offset_mask.shape)}"
        )
    _checks.shape(
        *("offset_mask", offset_mask, (input.shape[0], *out, offset_mask.shape[3])),
        why="batch of input, size of the output, channels",
    )
    return out


def _fake(tensors: Tensors, options: Options) -> Tensor:
    input = cast("Tensor", tensors[0])
    out = _check(tensors, core.geometry_of(options))
    return input.new_empty((input.shape[0], *out, input.shape[3]))


def _autocast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """The map to ``dtype``; coordinates stay as they came, and with them the masks beside them."""
    input, offset_mask = cast("tuple[Tensor, Tensor]", tensors)
    if input.dtype == torch.float64:
        return tensors
    return input.to(dtype), core.beside(offset_mask, dtype)


_OPERATOR = Operator(
    name="dcnv4",
    tensors=("Tensor input", "Tensor offset_mask"),
    options=core.OPTIONS,
    forward=core.forward,
    reference_forward=core.reference_forward,
    backward=core.backward,
    reference_backward=core.reference_backward,
    fake=_fake,
    fold=core.fold,
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
    options = core.checked_options(
        kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax, backend
    )
    for name, value in (("input", input), ("offset_mask", offset_mask)):
        _checks.tensor(name, value)
    tensors = _OPERATOR.cast((input, offset_mask))
    _check(tensors, core.geometry_of(options))
    return _OPERATOR(tensors, options)
