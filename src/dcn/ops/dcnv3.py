"""DCNv3: a weighted sum of samples per group, without weights of its own. What a call means, and its checks.

Wang et al., "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions" (CVPR 2023),
equation 2 without the projections. Tensors are channels-last, offsets are **x first, then y**, and the **columns** of
the kernel are the outer index of the taps, unlike every convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dcn import checks
from dcn.kernels.dcnv3_geometry import Geometry, Pair
from dcn.ops import _dcnv3 as core
from dcn.ops._contract import Fold
from dcn.ops._operator import Operator


class _Tensors(NamedTuple):
    input: Tensor
    offset: Tensor
    mask: Tensor

    def core(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.input, self.offset, self.mask


class _Needs(NamedTuple):
    input: bool
    offset: bool
    mask: bool


def _check_sizes(input: Sequence[int], offset: Sequence[int], mask: Sequence[int], geometry: Geometry) -> Pair:
    """Refuse shapes that do not fit each other; the size of the output otherwise."""
    out = core.check_input(input, geometry)
    count = geometry.groups * geometry.taps
    why = f"batch of input, size of the output, {geometry.groups} groups * {geometry.taps} taps"
    checks.axes("offset", offset, 4, "[N, Ho, Wo, 2*G*K]")
    checks.sizes("offset", offset, (input[0], *out, 2 * count), f"{why} * 2")
    checks.axes("mask", mask, 4, "[N, Ho, Wo, G*K]")
    checks.sizes("mask", mask, (input[0], *out, count), why)
    return out


def _check(tensors: _Tensors, geometry: Geometry) -> Pair:
    """Refuse every wrong call; the size of the output otherwise."""
    input, offset, mask = tensors
    core.check_kinds(input, offset=offset, mask=mask)
    return _check_sizes(input.shape, offset.shape, mask.shape, geometry)


_accepted = core.remembered(_check, _Tensors)


def _fake(tensors: _Tensors, options: core.Options) -> Tensor:
    input = tensors.input
    return input.new_empty((input.shape[0], *_check(tensors, options.geometry()), input.shape[3]))


def _autocast(tensors: _Tensors, dtype: torch.dtype) -> _Tensors:
    """The map and the masks to ``dtype``; offsets stay as they came: 1000.3 cannot be represented in half precision."""
    input, offset, mask = tensors
    if input.dtype == torch.float64:
        return tensors
    return _Tensors(input.to(dtype), core.beside(offset, dtype), mask.to(dtype))


_OPERATOR = Operator(
    name="dcnv3",
    tensors=_Tensors,
    options=core.Options,
    needs=_Needs,
    forward=core.forward,
    reference_forward=core.reference_forward,
    backward=core.backward,
    reference_backward=core.reference_backward,
    fake=_fake,
    # Calls become images of one call: the images of a batch share no tensor.
    fold=lambda own: Fold(dict.fromkeys(_Tensors._fields, 0), output=0),
    autocast=_autocast,
)


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
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
    """The operator of InternImage: every group of channels is a weighted sum of ``K`` samples of the map.

    Location ``(oy, ox)`` and tap ``k`` in row ``j``, column ``i`` of the kernel sample group ``g`` at

        ``x = ox*stride - padding + e + offset_scale * (i*dilation - e + offset[..., (g*K + k)*2])``, with
        ``e = dilation*(kernel-1) // 2``, and likewise ``y`` with ``offset[..., (g*K + k)*2 + 1]``,

    bilinearly; the map fades to 0 within one pixel beyond its edge. Taps count columns outermost: ``k = i*kh + j``.
    Positions may be anything, NaN and infinity too: a tap outside the map contributes 0 and has zero gradients. Any
    sizes and strides in memory are taken; there is no rule on batch, channels, kernel or groups.

    Args:
        input: ``[N, H, W, C]``, float16, bfloat16, float32 or float64; group ``g`` has the channels from ``g*C/G`` on.
            ``N`` may be 0.
        offset: ``[N, Ho, Wo, G*K*2]``, pixels, x before y. The type of ``input``, or float32 beside half precision.
            Positions and sums are computed in float32 (float64).
        mask: ``[N, Ho, Wo, G*K]``, the weights, used as they are. The type of ``input``, or float32 beside half.
        kernel_size: an int or ``(rows, columns)``.
        stride: distance of the output locations, an int or ``(y, x)``.
        padding: how far the first tap lies before the first pixel, an int or ``(y, x)``; nothing is really padded.
        dilation: distance of neighbouring taps, an int or ``(y, x)``.
        groups: ``G``, a divisor of ``C``.
        offset_scale: scales the whole tap pattern about its centre, the regular grid included.
        remove_center: leave out the tap ``(kernel // 2)``: ``K = kh*kw - 1``.
        softmax: ``mask`` holds logits, which the operator normalises over the taps of a group.
        backend: ``None`` takes the fastest that can compute the call (or ``$DCN_BACKEND``); a name insists on it.

    Returns:
        ``[N, Ho, Wo, C]`` in the type of ``input``; ``Ho = (H + 2*pad - dilation*(kh-1) - 1) // stride + 1``.

    Raises:
        ValueError: an argument does not fit (the message names it, what was expected and what came), or the backend
            that was named cannot compute the call.
    """
    given = (kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax, backend)
    tensors = _Tensors(input, offset, mask)
    if core.plain(given, input, offset, mask):
        kinds = (
            input.shape,
            input.dtype,
            input.device,
            offset.shape,
            offset.dtype,
            offset.device,
            mask.shape,
            mask.dtype,
            mask.device,
        )
        return _OPERATOR(tensors, _accepted(*given, *kinds))
    options = core.checked_options(*given)
    for name, value in (("input", input), ("offset", offset), ("mask", mask)):
        checks.tensor(name, value)
    tensors = _OPERATOR.cast(tensors)
    _check(tensors, options.geometry())
    return _OPERATOR(tensors, options)
