"""Preparation of samples for training and evaluation: small frozen records, called as ``transform(sample, generator)``.

The generator is the only source of randomness: one seed gives one result. What each does is in `dcn.data.geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcn.data.dataset import Transform
from dcn.data.geometry import crop, flip, resize, resize_image, resized_size, rotate, rotate90, scale_to
from dcn.structures import Sample

__all__ = [
    "Compose",
    "RandomColor",
    "RandomCrop",
    "RandomFlip",
    "RandomQuarterTurn",
    "RandomRotation",
    "RandomScale",
    "Resize",
    "adjust_color",
    "crop",
    "flip",
    "resize",
    "resize_image",
    "resized_size",
    "rotate",
    "rotate90",
]


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """One number between ``low`` and ``high``."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def pick(generator: torch.Generator, count: int) -> int:
    """One of ``0 .. count - 1``."""
    return int(torch.randint(count, (), generator=generator))


def adjust_color(image: Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    """Change ``[3, H, W]`` uint8 RGB.

    Args:
        image: the picture.
        brightness: factor of all values.
        contrast: factor of the distance from the picture's mean grey.
        saturation: factor of the distance from each pixel's grey.
        hue: rotation of the color circle in degrees, about the grey axis.
    """
    values = image.float() * brightness
    weights = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
    grey = torch.tensordot(weights, values, 1)
    values = grey.mean() + (values - grey.mean()) * contrast
    grey = torch.tensordot(weights, values, 1)
    values = grey + (values - grey) * saturation
    if hue:
        values = torch.tensordot(_hue_turn(hue), values, 1)
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _hue_turn(degrees: float) -> Tensor:
    """Rotation about the axis (1, 1, 1): greys stay."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    same, following, previous = cos + (1 - cos) / 3, (1 - cos) / 3 - sin / 3**0.5, (1 - cos) / 3 + sin / 3**0.5
    return torch.tensor([[same, following, previous], [previous, same, following], [following, previous, same]])


@dataclass(frozen=True)
class Compose:
    """Several transforms, one after the other."""

    steps: Sequence[Transform]

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Apply every step with the same generator."""
        for step in self.steps:
            sample = step(sample, generator)
        return sample


@dataclass(frozen=True)
class Resize:
    """`resize` to one of several shorter sides, chosen at random; a single side is always taken."""

    shorter: Sequence[int]
    longer: int

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Resize the sample."""
        side = self.shorter[pick(generator, len(self.shorter))] if len(self.shorter) > 1 else self.shorter[0]
        return resize(sample, side, self.longer)


@dataclass(frozen=True)
class RandomScale:
    """Multiply both sides by a factor between ``low`` and ``high``, every ratio equally likely (logarithmic)."""

    low: float
    high: float

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Scale the sample."""
        scale = math.exp(uniform(generator, math.log(self.low), math.log(self.high)))
        height, width = sample.image.shape[1:]
        return scale_to(sample, (max(round(height * scale), 1), max(round(width * scale), 1)), scale)


@dataclass(frozen=True)
class RandomFlip:
    """`flip` with a probability."""

    probability: float = 0.5

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Flip the sample or not."""
        return flip(sample) if uniform(generator) < self.probability else sample


@dataclass(frozen=True)
class RandomCrop:
    """`crop` a window of ``(height, width)`` anywhere.

    Args:
        size: of the window.
        min_side: objects left with a shorter side, in pixels, are dropped.
        pad: give exactly ``size`` also for a smaller image, filled at the bottom and the right; else the image is cut
            only where it is larger.
    """

    size: tuple[int, int]
    min_side: float = 4.0
    pad: bool = False

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Crop the sample."""
        room = [max(have - want, 0) for have, want in zip(sample.image.shape[1:], self.size, strict=True)]
        top, left = (pick(generator, space + 1) for space in room)
        height, width = self.size
        if not self.pad:
            height, width = min(height, sample.image.shape[1]), min(width, sample.image.shape[2])
        return crop(sample, top, left, height, width, min_side=self.min_side)


@dataclass(frozen=True)
class RandomColor:
    """`adjust_color` by random factors ``1 - x .. 1 + x``, and a hue within ``±hue`` degrees."""

    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.3
    hue: float = 10.0

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Change the colors of the sample."""
        brightness, contrast, saturation = (
            1 + uniform(generator, -reach, reach) for reach in (self.brightness, self.contrast, self.saturation)
        )
        hue = uniform(generator, -self.hue, self.hue)
        return Sample(adjust_color(sample.image, brightness, contrast, saturation, hue), sample.target)


@dataclass(frozen=True)
class RandomQuarterTurn:
    """`rotate90` by 0 to 3 quarter turns, equally likely."""

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Turn the sample."""
        return rotate90(sample, pick(generator, 4))


@dataclass(frozen=True)
class RandomRotation:
    """`rotate` by an angle within ``±degrees``; objects left with a side under ``min_side`` pixels are dropped."""

    degrees: float
    min_side: float = 4.0

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Turn the sample."""
        return rotate(sample, uniform(generator, -self.degrees, self.degrees), min_side=self.min_side)
