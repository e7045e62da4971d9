"""What is measured: one literal table per suite."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ConvCase:
    """A convolution with as many outputs as inputs and "same" padding, and normally distributed offsets."""

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


@dataclass(frozen=True)
class AttentionCase:
    """Multi-scale deformable attention: maps of several scales, as many queries as pixels or a few hundred."""

    name: str
    levels: tuple[tuple[int, int], ...]
    queries: int = 0  # 0: one per pixel
    heads: int = 8
    channels: int = 32  # of a head
    points: int = 4
    batch: int = 1
    dtype: torch.dtype = torch.float32
    spread: float = 2.0  # standard deviation of the offsets, in pixels of their level

    @property
    def label(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        shape = f"{self.batch}x{self.pixels} pixels, {self.queries or self.pixels} queries"
        return f"{self.name} {shape}, {self.heads}x{self.channels}, {len(self.levels)}x{self.points} {dtype}"

    @property
    def pixels(self) -> int:
        return sum(height * width for height, width in self.levels)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """value, locations, weights. Queries look around pixels of all levels; weights of a query sum to 1."""
        random = torch.Generator().manual_seed(0)
        value = torch.randn(self.batch, self.pixels, self.heads, self.channels, generator=random)
        centres = torch.cat([self._centres(height, width) for height, width in self.levels])
        if self.queries:
            centres = centres[torch.randint(len(centres), (self.queries,), generator=random)]
        sizes = torch.tensor([(width, height) for height, width in self.levels]).float()[:, None]
        samples = (self.batch, len(centres), self.heads, len(self.levels), self.points)
        offsets = torch.randn(*samples, 2, generator=random) * self.spread
        # Odd multiples of 1/128 pixel beside centres of all levels: never whole, where the slope may go either way.
        offsets = ((offsets * 64).floor() + 0.5) / 64
        locations = centres[:, None, None, None] + offsets / sizes
        weights = torch.randn(samples, generator=random).flatten(3).softmax(-1).view(samples)
        return value.to(self.dtype), locations, weights.to(self.dtype)

    @staticmethod
    def _centres(height: int, width: int) -> Tensor:
        """``[height * width, 2]``: x and y of the pixels as shares of the map."""
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        return torch.stack((x, y), -1).view(-1, 2)


_FOUR_LEVELS = ((100, 134), (50, 67), (25, 34), (13, 17))
# Deformable DETR on an image of 800x1066: its encoder and its decoder; RT-DETR's decoder on 640x640.
ATTENTION = (
    AttentionCase("encoder", _FOUR_LEVELS),
    AttentionCase("decoder", _FOUR_LEVELS, queries=300),
    AttentionCase("decoder, 3 levels", ((80, 80), (40, 40), (20, 20)), queries=300),
    AttentionCase("encoder", _FOUR_LEVELS, dtype=torch.bfloat16),
)


@dataclass(frozen=True)
class ModulatedCase:
    """DCNv3 or DCNv4 with a 3x3 kernel on maps of ``groups`` times ``depth`` channels."""

    name: str
    height: int
    width: int
    groups: int
    depth: int = 16
    batch: int = 1
    dtype: torch.dtype = torch.float32
    spread: float = 2.0  # standard deviation of the offsets, in pixels

    @property
    def label(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.name} {self.batch}x{self.height}x{self.width}x{self.groups * self.depth} /{self.groups} {dtype}"

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """input, offset, mask of DCNv3; the masks of a group sum to 1."""
        random = torch.Generator().manual_seed(0)
        locations = (self.batch, self.height, self.width)
        input = torch.randn(*locations, self.groups * self.depth, generator=random)
        # Odd multiples of 1/128 pixel: never whole, where implementations may differ in the slope.
        offset = torch.randn(*locations, self.groups * 18, generator=random) * self.spread
        offset = ((offset * 64).floor() + 0.5) / 64
        mask = torch.randn(*locations, self.groups, 9, generator=random).softmax(-1).flatten(3)
        return input.to(self.dtype), offset, mask.to(self.dtype)

    def fused(self) -> tuple[Tensor, Tensor]:
        """input and offset_mask of DCNv4, channels rounded up to a multiple of 8."""
        input, offset, mask = self.tensors()
        parts = (offset.unflatten(-1, (self.groups, 18)), mask.to(offset.dtype).unflatten(-1, (self.groups, 9)))
        joined = torch.cat(parts, -1).flatten(-2)
        return input, torch.nn.functional.pad(joined, (0, -joined.shape[-1] % 8))


# The four stages of InternImage-T on an image of 224x224, and the first on one of 800x1216.
MODULATED = (
    ModulatedCase("InternImage-T stage 1", 56, 56, 4),
    ModulatedCase("InternImage-T stage 2", 28, 28, 8),
    ModulatedCase("InternImage-T stage 3", 14, 14, 16),
    ModulatedCase("InternImage-T stage 4", 7, 7, 32),
    ModulatedCase("InternImage-T stage 1", 200, 304, 4),
)
