"""Sizes of the images of a batch, as tensors on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcn.models.detection.shared.fixed_shapes import to_device

Size = tuple[int, int]
"""``(height, width)`` in pixels."""


@dataclass(frozen=True)
class Frames:
    """Sizes of the images of a batch.

    Attributes:
        sizes: ``[N, 2]`` float32 (height, width) of each image in pixels of the batch.
        factors: ``[N, 4]`` float32 (x, y, x, y), from pixels of the batch to pixels of the output.
        output_sizes: ``[N, 2]`` float32 (height, width) of the images in pixels of the output.
    """

    sizes: Tensor
    factors: Tensor
    output_sizes: Tensor


def make_frames(
    sizes: Sequence[Size], output_sizes: Sequence[Size], device: torch.device, clipped: Sequence[Size] | None = None
) -> Frames:
    """The sizes of a batch on ``device``, by one copy that the host does not wait for.

    Args:
        sizes: ``(height, width)`` of each image in pixels of the batch.
        output_sizes: ``(height, width)`` of each image in pixels of the output.
        device: where the model computes.
        clipped: what counts as the image where that is more than ``sizes`` (padding that counts).
    """
    rows = []
    for (height, width), (tall, wide), seen in zip(sizes, output_sizes, clipped or sizes, strict=True):
        x, y = wide / width, tall / height
        rows.append((*seen, x, y, x, y, tall, wide))
    table = to_device(torch.tensor(rows, dtype=torch.float32).view(-1, 8), device)
    return Frames(table[:, :2], table[:, 2:6], table[:, 6:])
