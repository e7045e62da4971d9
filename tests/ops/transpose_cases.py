"""Calls of transposed deformable convolution, and a loop in NumPy that says what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from dcn.ops import deform_conv_transpose1d, deform_conv_transpose2d, deform_conv_transpose3d
from dcn.ops.deform_conv_transpose import output_size
from tests.ops.oracle import Array, row_weights

OPS: dict[int, Callable[..., Tensor]] = {
    1: deform_conv_transpose1d,
    2: deform_conv_transpose2d,
    3: deform_conv_transpose3d,
}


@dataclass(frozen=True)
class Case:
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    channels: int = 4
    outputs: int = 6
    groups: int = 2
    offset_groups: int = 3
    mask_groups: int = 3
    batch: int = 2
    boundary: str = "v2"

    @property
    def n(self) -> int:
        return len(self.size)

    @property
    def out(self) -> tuple[int, ...]:
        geometry = (self.stride, self.padding, self.output_padding, self.dilation)
        return output_size(self.size, self.kernel, *geometry)

    def tensors(self, dtype: torch.dtype = torch.float64, spread: float = 1.5, seed: int = 0) -> list[Tensor]:
        """Input, offset, weight, bias, mask."""
        generator = torch.Generator().manual_seed(seed)
        taps = prod(self.kernel)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        made = (
            normal(self.batch, self.channels, *self.size),
            normal(self.batch, self.n * self.offset_groups * taps, *self.size) * spread,
            normal(self.channels, self.outputs // self.groups, *self.kernel),
            normal(self.outputs),
            normal(self.batch, self.mask_groups * taps, *self.size).sigmoid(),
        )
        return [tensor.to(dtype) for tensor in made]

    def run(self, tensors: Sequence[Tensor | None], backend: str | None = None) -> Tensor:
        x, offset, weight, bias, mask = tensors
        geometry = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return OPS[self.n](x, offset, weight, bias, *geometry, mask, boundary=self.boundary, backend=backend)


SQUARE = Case((4, 5), (3, 3), (1, 1), (1, 1), (0, 0), (1, 1), groups=1, offset_groups=1, mask_groups=1)
AWKWARD = Case((3, 4), (3, 2), (2, 3), (1, 0), (1, 2), (2, 1))
CASES = {
    "square": SQUARE,
    "awkward": AWKWARD,
    "v1": Case((3, 4), (3, 2), (2, 1), (1, 0), (1, 0), (1, 2), boundary="v1"),
    "mask-groups": Case((3, 4), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1), offset_groups=2, mask_groups=3),
    "one-mask": Case((3, 4), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1), offset_groups=6, mask_groups=1),
    "depthwise": Case(
        (4, 4), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1), channels=6, groups=6, offset_groups=1, mask_groups=1
    ),
    "dilated-padding": Case((3, 3), (2, 2), (1, 1), (1, 1), (2, 2), (3, 3)),
    "1d": Case((7,), (3,), (2,), (1,), (1,), (1,)),
    "3d": Case((2, 3, 2), (2, 2, 3), (1, 2, 1), (0, 1, 1), (0, 1, 0), (1, 1, 1), batch=1),
}


def expected(case: Case, tensors: Sequence[Tensor]) -> Array:
    """The output, tap by tap: each input pixel adds its products at the weights of a dense row per axis."""
    x, offset, weight, bias, mask = (t.double().numpy() for t in tensors)
    result = np.zeros((case.batch, case.outputs, *case.out)) + bias.reshape(-1, *[1] * case.n)
    taps, per_out, per_in = prod(case.kernel), case.outputs // case.groups, case.channels // case.groups
    for image, output, *at in np.ndindex(case.batch, case.outputs, *case.size):
        group = output // per_out
        for t, tap in enumerate(np.ndindex(*case.kernel)):
            channels = slice(group * per_in, (group + 1) * per_in)
            product = x[(image, channels, *at)] @ weight[(channels, output % per_out, *tap)]
            slot = output // (case.outputs // case.offset_groups) * taps + t
            factor = mask[(image, output // (case.outputs // case.mask_groups) * taps + t, *at)]
            rows: list[Array | None] = []
            for axis in range(case.n):
                base = at[axis] * case.stride[axis] - case.padding[axis] + tap[axis] * case.dilation[axis]
                position = base + offset[(image, slot * case.n + axis, *at)]
                rows.append(row_weights(position, case.out[axis], case.boundary))
            inside = [row for row in rows if row is not None]
            if len(inside) < case.n:
                continue
            share = np.array(1.0)
            for row in inside:
                share = np.multiply.outer(share, row)
            result[image, output] += factor * product * share
    return result
