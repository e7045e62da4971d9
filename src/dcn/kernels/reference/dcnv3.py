"""DCNv3 and DCNv4 in plain PyTorch, with explicit gradients: the specification of both.

Shapes: input ``[N, H, W, C]``, ``G`` groups of ``D = C/G`` channels, ``K`` taps, ``L = Ho*Wo`` output locations,
``P = L*K`` samples per image and group, ``S = H*W``. Every function is differentiable in turn: second derivatives need
that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcn.kernels.dcnv3_geometry import Geometry, join, split
from dcn.kernels.reference import fixed_order, full_precision
from dcn.kernels.reference._sampling import Corner, compute_dtype, corners


@dataclass(frozen=True)
class _Samples:
    """All samples of one call."""

    values: Tensor  # [N, G, S, D] the map in the computing type
    corners: list[Corner]  # tensors [N, G, P]
    weight: Tensor  # [N, G, P] masks, normalised where the call asks for it
    taps: int

    def read(self, corner: Corner) -> Tensor:
        """``[N, G, P, D]``: the map at one corner of every sample, 0 outside of it."""
        index = corner.location.unsqueeze(3).expand(-1, -1, -1, self.values.shape[3])
        return torch.where(corner.inside.unsqueeze(3), self.values.gather(2, index), 0.0)

    def per_location(self, samples: Tensor) -> Tensor:
        """``[N, G, P, D]`` summed over the taps of a location: ``[N, L, G*D]``."""
        return samples.unflatten(2, (samples.shape[2] // self.taps, self.taps)).sum(3).transpose(1, 2).flatten(2)


def _locations(offset: Tensor, geometry: Geometry) -> list[Tensor]:
    """Row and column of every sample, ``[N, G, P]`` each, from offsets ``[N, Ho, Wo, G, K, 2]`` (x, y)."""
    result = []
    for axis in (0, 1):
        count = offset.shape[1 + axis]
        centre = torch.arange(count, device=offset.device) * geometry.stride[axis] + geometry.origin(axis)
        shift = torch.tensor([step[axis] for step in geometry.shifts()], device=offset.device)
        pattern = shift.to(offset.dtype) + offset[..., 1 - axis]
        place = centre.to(offset.dtype).reshape([-1, 1, 1, 1] if axis == 0 else [-1, 1, 1])
        position = place + geometry.offset_scale * pattern
        result.append(position.permute(0, 3, 1, 2, 4).flatten(2))
    return result


def _samples(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> _Samples:
    dtype = compute_dtype(input.dtype)
    offsets, masks = split(offset, mask, geometry)
    weight = masks.to(dtype).softmax(-1) if geometry.softmax else masks.to(dtype)
    batch, height, width, channels = input.shape
    values = input.to(dtype).reshape(batch, height * width, geometry.groups, channels // geometry.groups)
    return _Samples(
        values=values.transpose(1, 2),
        corners=corners(_locations(offsets.to(dtype), geometry), (height, width), "v2"),
        weight=weight.permute(0, 3, 1, 2, 4).flatten(2),
        taps=geometry.taps,
    )


def unsupported(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> str | None:
    """``None``: the reference takes every call."""
    return None


@full_precision()
@fixed_order()
def forward(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry) -> Tensor:
    """``[N, Ho, Wo, C]`` in the type of ``input``: the sum over the taps of mask * sampled input."""
    samples = _samples(input, offset, mask, geometry)
    total = torch.zeros((), dtype=samples.values.dtype, device=input.device)
    for corner in samples.corners:
        # A tap outside the map counts as 0 whatever its mask is, NaN included.
        weight = torch.where(corner.inside, corner.weight * samples.weight, 0.0)
        total = total + samples.per_location(samples.read(corner) * weight.unsqueeze(3))
    return total.reshape(*offset.shape[:3], input.shape[3]).to(input.dtype)


@full_precision()
@fixed_order()
def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: Geometry,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, offset and mask, each in the shape and type of what it belongs to; ``needs`` says which."""
    samples = _samples(input, offset, mask, geometry)
    # [N, G, P, D]: every tap of a location has the gradient of the location.
    batch, groups, _, depth = samples.values.shape
    locations = offset.shape[1] * offset.shape[2]
    grad = grad_output.to(samples.values.dtype).reshape(batch, locations, 1, groups, depth)
    grad = grad.expand(batch, locations, geometry.taps, groups, depth)
    grad = grad.reshape(batch, locations * geometry.taps, groups, depth).transpose(1, 2)
    by_input = _by_input(samples, grad).reshape(input.shape).to(input.dtype) if needs[0] else None
    if not needs[1] and not needs[2]:
        return by_input, None, None
    by_offset, by_mask = _by_place(samples, grad, offset.shape[1:3], geometry)
    if mask is None:
        return by_input, join(by_offset, by_mask, offset.shape[3]).to(offset.dtype), None
    return (
        by_input,
        by_offset.reshape(offset.shape).to(offset.dtype) if needs[1] else None,
        by_mask.reshape(mask.shape).to(mask.dtype) if needs[2] else None,
    )


def _by_input(samples: _Samples, grad: Tensor) -> Tensor:
    """``[N, S, G, D]``: each sample hands its gradient back to the corners it was read from."""
    result = torch.zeros_like(samples.values)
    for corner in samples.corners:
        weight = torch.where(corner.inside, corner.weight * samples.weight, 0.0).unsqueeze(3)
        part = torch.where(corner.inside.unsqueeze(3), grad * weight, 0.0)
        result = result.scatter_add(2, corner.location.unsqueeze(3).expand_as(part), part)
    return result.transpose(1, 2)


def _by_place(samples: _Samples, grad: Tensor, out: tuple[int, ...], geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The gradients of the offsets ``[N, Ho, Wo, G, K, 2]`` and of the masks ``[N, Ho, Wo, G, K]``."""
    by_weight = torch.zeros_like(samples.weight)
    by_y, by_x = torch.zeros_like(by_weight), torch.zeros_like(by_weight)
    for corner in samples.corners:
        gain = torch.where(corner.inside, (samples.read(corner) * grad).sum(3), 0.0)
        by_weight = by_weight + gain * corner.weight
        by_y = by_y + gain * corner.slopes[0]
        by_x = by_x + gain * corner.slopes[1]
    inside = samples.corners[0].inside
    for corner in samples.corners[1:]:
        inside = inside | corner.inside
    scale = torch.where(inside, samples.weight, 0.0) * geometry.offset_scale
    by_offset = torch.stack((by_x * scale, by_y * scale), -1)
    shape = (*samples.weight.shape[:2], *out, geometry.taps)
    by_offset = by_offset.reshape(*shape, 2).permute(0, 2, 3, 1, 4, 5)
    by_mask = by_weight.reshape(shape).permute(0, 2, 3, 1, 4)
    if geometry.softmax:
        weight = samples.weight.reshape(shape).permute(0, 2, 3, 1, 4)
        by_mask = weight * (by_mask - (weight * by_mask).sum(-1, keepdim=True))
    return by_offset, by_mask
