"""What is measured: one literal table per suite."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ConvCase:
    """A convolution with as many outputs as inputs and "same" padding, and offsets drawn from a normal distribution."""

    name: str
    channels: int
    height: int
    width: int
    stride: int = 1
    batch: int = 1
    groups: int = 1
    kernel: int = 3
    dtype: torch.dtype = torch.float32
    spread: float = 2.0  # standard deviation of the offsets, in pixels

    @property
    def label(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        shape = f"{self.batch}x{self.channels}x{self.height}x{self.width}"
        return f"{self.name} {shape} /{self.stride} {dtype} std{self.spread:g}"

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """input, offset, weight, gradient of the output."""
        random = torch.Generator().manual_seed(0)

        def make(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random)

        out = [(size - 1) // self.stride + 1 for size in (self.height, self.width)]
        x = make(self.batch, self.channels, self.height, self.width)
        # Odd multiples of 1/128 pixel: exact in float32 and never whole, where implementations may differ in the slope.
        offset = make(self.batch, 2 * self.kernel**2, *out) * self.spread
        offset = ((offset * 64).floor() + 0.5) / 64 if self.spread else offset
        weight = make(self.channels, self.channels // self.groups, self.kernel, self.kernel) * 0.05
        grad = make(self.batch, self.channels, *out)
        return tuple(t.to(self.dtype) for t in (x, offset, weight, grad))  # type: ignore[return-value]

    def in_batch(self, batch: int) -> ConvCase:
        return replace(self, batch=batch)


# The 3x3 layers of ResNet-50/101 on an image of 800x1333, with the stride of a stage in the 3x3 (torchvision's form).
RESNET = (
    ConvCase("C2", 64, 200, 334),
    ConvCase("C3 first", 128, 200, 334, stride=2),
    ConvCase("C3", 128, 100, 167),
    ConvCase("C4 first", 256, 100, 167, stride=2),
    ConvCase("C4", 256, 50, 84),
    ConvCase("C5 first", 512, 50, 84, stride=2),
    ConvCase("C5", 512, 25, 42),
)
DEPTHWISE = tuple(
    replace(case, name=f"{case.name} depthwise", groups=case.channels) for case in RESNET if case.stride == 1
)

SUITES: dict[str, tuple[ConvCase, ...]] = {
    "conv": tuple(case.in_batch(batch) for batch in (1, 4) for case in RESNET),
    "depthwise": DEPTHWISE,
    "bfloat16": tuple(replace(case, dtype=torch.bfloat16) for case in RESNET),
    "zero-offsets": tuple(replace(case, spread=0.0) for case in RESNET),
}
