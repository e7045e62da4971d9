"""Calls of DCNv3 and DCNv4 that the tests share, and an oracle of its own: loops over single numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import floor

import torch
from torch import Tensor
from torch.nn.functional import pad

from dcn.ops import dcnv3, dcnv4

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One geometry; pairs are ``(y, x)``. ``groups`` of ``depth`` channels."""

    size: Pair = (5, 6)
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 2
    depth: int = 3
    scale: float = 1.0
    remove_center: bool = False
    softmax: bool = False
    batch: int = 2

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1] - self.remove_center

    @property
    def out(self) -> Pair:
        rows, columns = (
            floor((s + 2 * p - d * (k - 1) - 1) / step) + 1
            for s, p, d, k, step in zip(self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True)
        )
        return rows, columns

    def tensors(self, dtype: torch.dtype = torch.float64, spread: float = 1.5, seed: int = 0) -> list[Tensor]:
        """Input, offset and mask of DCNv3."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(self.batch, *size, generator=generator, dtype=torch.float64).to(dtype)

        count = self.groups * self.taps
        return [
            normal(*self.size, self.groups * self.depth),
            normal(*self.out, 2 * count) * spread,
            normal(*self.out, count),
        ]

    def fused(self, offset: Tensor, mask: Tensor, spare: int = 5) -> Tensor:
        """The one tensor of DCNv4, with noise in ``spare`` channels that nobody owns."""
        grouped = (t.unflatten(-1, (self.groups, t.shape[-1] // self.groups)) for t in (offset, mask))
        return pad(torch.cat(tuple(grouped), -1).flatten(-2), (0, spare), value=7.0)

    def options(self) -> dict[str, object]:
        return {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "offset_scale": self.scale,
            "remove_center": self.remove_center,
            "softmax": self.softmax,
        }


def run_v3(case: Case, tensors: list[Tensor], backend: str | None = None) -> Tensor:
    return dcnv3(*tensors, **case.options(), backend=backend)  # type: ignore[arg-type]


def run_v4(case: Case, tensors: list[Tensor], backend: str | None = None) -> Tensor:
    """The same call, offsets and masks joined on the way (differentiably)."""
    return dcnv4(tensors[0], case.fused(*tensors[1:]), **case.options(), backend=backend)  # type: ignore[arg-type]


OPERATORS: dict[str, Callable[[Case, list[Tensor], str | None], Tensor]] = {"dcnv3": run_v3, "dcnv4": run_v4}

CASES = {
    "3x3": Case(),
    "awkward": Case((5, 7), (3, 2), (2, 1), (1, 0), (1, 3), groups=3, depth=1, scale=0.5),
    "even-kernel": Case((6, 5), (2, 4), (1, 2), (2, 1), (3, 1), groups=1, depth=5),
    "remove-center": Case(remove_center=True, scale=1.5),
    "remove-center-even": Case(kernel=(2, 2), remove_center=True),
    "softmax": Case(softmax=True, scale=2.0),
    "stride-dilation": Case((9, 7), (3, 3), (2, 2), (2, 2), (2, 2), groups=3),
    "5x5": Case(kernel=(5, 5), padding=(2, 2), depth=2),
    "1x1": Case(kernel=(1, 1), padding=(0, 0), groups=4, depth=2, softmax=True),
    "column": Case(kernel=(7, 1), padding=(3, 0), groups=1, depth=17),
    "wide-groups": Case((4, 3), groups=2, depth=37, batch=1),
    "many-groups": Case((3, 4), groups=67, depth=1, batch=1, softmax=True),
    "one-pixel": Case((1, 1), batch=3),
}
SMALL = Case((3, 4), (3, 2), (2, 1), (1, 0), groups=2, depth=2, scale=0.7, batch=1)


def _sample(image: Tensor, y: float, x: float) -> Tensor:
    """``[D]``: the map ``[H, W, D]`` at a position; 0 beyond one pixel around it."""
    height, width, depth = image.shape
    total = image.new_zeros(depth)
    if not (-1 < y < height and -1 < x < width):
        return total
    for row in (floor(y), floor(y) + 1):
        for column in (floor(x), floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total = total + image[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def expected(case: Case, tensors: list[Tensor]) -> Tensor:
    """SPEC's formula, number by number, in float64."""
    input, offset, mask = (t.double() for t in tensors)
    (kh, kw), (rows, columns) = case.kernel, case.out
    offset = offset.reshape(*offset.shape[:3], case.groups, case.taps, 2)
    mask = mask.reshape(*mask.shape[:3], case.groups, case.taps)
    mask = mask.softmax(-1) if case.softmax else mask
    half_y, half_x = (d * (k - 1) // 2 for d, k in zip(case.dilation, case.kernel, strict=True))
    steps = [(i, j) for i in range(kw) for j in range(kh)]
    if case.remove_center:
        steps.remove((kw // 2, kh // 2))
    output = input.new_zeros(input.shape[0], rows, columns, case.groups, case.depth)
    for n in range(input.shape[0]):
        for g in range(case.groups):
            image = input[n, :, :, g * case.depth : (g + 1) * case.depth]
            for oy in range(rows):
                for ox in range(columns):
                    for k, (i, j) in enumerate(steps):
                        off_x, off_y = offset[n, oy, ox, g, k].tolist()
                        pattern_x, pattern_y = i * case.dilation[1] - half_x, j * case.dilation[0] - half_y
                        x = ox * case.stride[1] - case.padding[1] + half_x + case.scale * (pattern_x + off_x)
                        y = oy * case.stride[0] - case.padding[0] + half_y + case.scale * (pattern_y + off_y)
                        output[n, oy, ox, g] += mask[n, oy, ox, g, k] * _sample(image, y, x)
    return output.flatten(3)


def gradients(
    function: Callable[[list[Tensor]], Tensor], tensors: list[Tensor], grad: Tensor | None = None
) -> list[Tensor]:
    """The output and the gradients of all tensors; ``grad`` defaults to a fixed random one."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    output = function(leaves)
    if grad is None:
        random = torch.Generator().manual_seed(9)
        grad = torch.randn(output.shape, generator=random, dtype=torch.float64).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def in_batch(case: Case, batch: int) -> Case:
    return replace(case, batch=batch)
