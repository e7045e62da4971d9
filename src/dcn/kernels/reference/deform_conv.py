"""Deformable convolution in one, two or three dimensions: plain PyTorch, explicit gradients.

Shapes, with ``n`` spatial axes, ``K`` kernel taps, ``G`` offset groups and ``L`` output positions: input
``[N, C, *size]``, offset ``[N, n*G*K, *out]`` (per group, per tap, one coordinate per axis, slowest axis first), weight
``[O, C/g, *kernel]``, mask ``[N, G*K, *out]``. Every function is itself differentiable: second derivatives need that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from dcn.kernels.reference import fixed_order, full_precision
from dcn.kernels.reference._sampling import Corner, compute_dtype, corners


@dataclass(frozen=True)
class _Taps:
    """All samples of one call. ``P = K*L`` locations per image and offset group."""

    values: Tensor  # [N, G, C/G, S] input in the computing type, S = prod(size)
    corners: list[Corner]  # tensors [N, G, P]
    mask: Tensor | None  # [N, G, P]
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    groups: int

    def read(self, corner: Corner, values: Tensor | None = None) -> Tensor:
        """``[N, G, C/G, P]``: the input at one corner of every sample, 0 outside the map."""
        values = self.values if values is None else values
        index = corner.location.unsqueeze(2).expand(-1, -1, values.shape[2], -1)
        return torch.where(corner.inside.unsqueeze(2), values.gather(3, index), 0.0)

    def sample(self, values: Tensor | None = None) -> Tensor:
        """``[N, G, C/G, P]``: the interpolated input, not yet multiplied by the mask."""
        return sum((self.read(c, values) * c.weight.unsqueeze(2) for c in self.corners[1:]), self._first(values))

    def _first(self, values: Tensor | None) -> Tensor:
        return self.read(self.corners[0], values) * self.corners[0].weight.unsqueeze(2)

    def masked(self, samples: Tensor) -> Tensor:
        return samples if self.mask is None else samples * self.mask.unsqueeze(2)

    def rows(self, samples: Tensor) -> Tensor:
        """``[N, G, C/G, P]`` as the right operand of the convolution's product: ``[N, g, C/g*K, L]``."""
        batch, offset_groups, channels, locations = samples.shape
        rows = offset_groups * channels * locations // (self.groups * prod(self.out))
        return samples.reshape(batch, self.groups, rows, prod(self.out))

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as its left operand: ``[g, O/g, C/g*K]``."""
        return weight.to(self.values.dtype).reshape(self.groups, weight.shape[0] // self.groups, -1)


def _positions(
    offset: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[Tensor]:
    """Per axis the sampled coordinate ``[N, G, P]``: output location * stride - padding + tap * dilation + offset."""
    n, out = len(stride), offset.shape[2:]
    taps = offset.reshape(offset.shape[0], offset.shape[1] // (n * prod(kernel)), prod(kernel), n, *out)
    result = []
    for axis in range(n):
        location = torch.arange(out[axis], device=offset.device, dtype=offset.dtype) * stride[axis] - padding[axis]
        tap = torch.arange(kernel[axis], device=offset.device, dtype=offset.dtype) * dilation[axis]
        tap = tap.reshape([-1 if a == axis else 1 for a in range(n)]).expand(*kernel).reshape([-1] + [1] * n)
        base = tap + location.reshape([-1 if a == axis else 1 for a in range(n)])
        result.append((taps[:, :, :, axis] + base).flatten(2))
    return result


def _taps(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> _Taps:
    dtype = compute_dtype(input.dtype)
    kernel = tuple(weight.shape[2:])
    offset_groups = offset.shape[1] // (len(stride) * prod(kernel))
    locations = _positions(offset.to(dtype), kernel, stride, padding, dilation)
    batch, channels, *size = input.shape
    return _Taps(
        values=input.to(dtype).reshape(batch, offset_groups, channels // offset_groups, prod(size)),
        corners=corners(locations, size, boundary),
        mask=None if mask is None else mask.to(dtype).reshape(locations[0].shape),
        kernel=kernel,
        out=tuple(offset.shape[2:]),
        groups=channels // weight.shape[1],
    )


def unsupported(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> str | None:
    """``None``: the reference takes every call."""
    return None


@full_precision()
@fixed_order()
def forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> Tensor:
    """``[N, O, *out]`` in the type of ``input``: sum over taps of weight * mask * sampled input, plus bias."""
    taps = _taps(input, offset, weight, mask, stride, padding, dilation, boundary)
    output = taps.matrix(weight) @ taps.rows(taps.masked(taps.sample()))
    output = output.reshape(input.shape[0], weight.shape[0], *taps.out)
    if bias is not None:
        output = output + bias.to(output.dtype).reshape([-1] + [1] * len(stride))
    return output.to(input.dtype)


@full_precision()
@fixed_order()
def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
    needs: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, offset, weight and mask, each in the shape and type of what it belongs to.

    ``needs`` says which are computed; the others are ``None``. The bias gradient is the plain sum of ``grad_output``.
    """
    taps = _taps(input, offset, weight, mask, stride, padding, dilation, boundary)
    batch, outputs = grad_output.shape[:2]
    grad = grad_output.to(taps.values.dtype).reshape(batch, taps.groups, outputs // taps.groups, prod(taps.out))
    columns = (taps.matrix(weight).transpose(1, 2) @ grad).reshape(
        *taps.values.shape[:3], prod(taps.kernel) * prod(taps.out)
    )
    grad_input = _grad_input(taps, columns).reshape(input.shape).to(input.dtype) if needs[0] else None
    grad_offset = grad_mask = None
    if needs[1] or needs[3]:
        by_location, by_weight = _grad_locations(taps, columns)
        grad_offset = by_location.reshape(offset.shape).to(offset.dtype) if needs[1] else None
        grad_mask = by_weight.reshape(mask.shape).to(mask.dtype) if needs[3] and mask is not None else None
    grad_weight = None
    if needs[2]:
        product = (grad @ taps.rows(taps.masked(taps.sample())).transpose(2, 3)).sum(0)
        grad_weight = product.reshape(weight.shape).to(weight.dtype)
    return grad_input, grad_offset, grad_weight, grad_mask


def _grad_input(taps: _Taps, columns: Tensor) -> Tensor:
    """``[N, G, C/G, S]``: each sample hands its gradient back to the corners it was read from."""
    columns = taps.masked(columns)
    result = torch.zeros_like(taps.values)
    for corner in taps.corners:
        index = corner.location.unsqueeze(2).expand_as(columns)
        result = result.scatter_add(3, index, columns * corner.weight.unsqueeze(2))
    return result


def _grad_locations(taps: _Taps, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the offset ``[N, G, K, n, L]`` and of the mask ``[N, G, P]``."""
    axes = len(taps.out)
    by_axis: list[Tensor] = [torch.zeros_like(taps.corners[0].weight) for _ in range(axes)]
    by_weight = torch.zeros_like(taps.corners[0].weight)
    for corner in taps.corners:
        gain = (taps.read(corner) * columns).sum(2)  # [N, G, P]
        by_weight = by_weight + gain * corner.weight
        by_axis = [total + gain * slope for total, slope in zip(by_axis, corner.slopes, strict=True)]
    if taps.mask is not None:
        by_axis = [total * taps.mask for total in by_axis]
    split = [total.reshape(*total.shape[:2], prod(taps.kernel), prod(taps.out)) for total in by_axis]
    return torch.stack(split, dim=3), by_weight
