"""From a list of uint8 images to one normalised, padded batch: part of the model, as it belongs to the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

PreprocessName = Literal["rgb_std", "bgr_caffe", "bgr_mean", "rgb_mean"]

# (order of the planes, means in that order, standard deviations)
_RULES: dict[str, tuple[tuple[int, int, int], tuple[float, float, float], tuple[float, float, float]]] = {
    # torchvision and mmdetection: RGB, ImageNet statistics.
    "rgb_std": ((0, 1, 2), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    # Models trained with Caffe: BGR, means only.
    "bgr_caffe": ((2, 1, 0), (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)),
    # detectron2 on weights of MSRA, and mmdetection's "caffe" models.
    "bgr_mean": ((2, 1, 0), (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
    # The original MXNet code: the BGR means (103.06, 115.90, 123.15), but planes in the order RGB.
    "rgb_mean": ((0, 1, 2), (123.15, 115.90, 103.06), (1.0, 1.0, 1.0)),
}


LEAST_SIDE = 4
"""Pixels of the smallest batch: a stem without padding makes a map without rows of two."""


@dataclass(frozen=True)
class ImageBatch:
    """Images as a model takes them.

    Attributes:
        pixels: ``[N, 3, H, W]``, normalised, padded at the right and the bottom; float32 unless :class:`Preprocess` is
            told otherwise.
        sizes: ``(height, width)`` of each image without padding.
        divisor: what ``H`` and ``W`` are multiples of.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    divisor: int

    def padded_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` that image ``index`` would have been padded to on its own."""
        height, width = self.sizes[index]
        return _round_up(height, self.divisor), _round_up(width, self.divisor)


class Preprocess(nn.Module):
    """Normalises uint8 RGB images and pads them to one batch.

    Args:
        name: ``"rgb_std"`` (torchvision, mmdetection), ``"bgr_caffe"`` (means 104, 117, 123 in BGR order),
            ``"bgr_mean"`` (BGR minus 103.53, 116.28, 123.675: detectron2, mmdetection's "caffe" models) or
            ``"rgb_mean"`` (the original MXNet code: RGB minus means).
        divisor: height and width of the batch are multiples of it.
        pad_value: the value of padding pixels *before* normalisation is 0 with ``"black"`` (the original FPN code);
            *after* normalisation with ``"mean"`` (mmdetection).

    Attributes:
        output_dtype: type of the pixels; they are normalised in float32.
        channels_last: whether the channels of a pixel lie side by side in memory.

    Raises:
        ValueError: for an unknown ``name``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: PreprocessName = "rgb_std", *, divisor: int = 32, pad_value: Literal["mean", "black"] = "mean"
    ) -> None:
        super().__init__()
        if name not in _RULES:
            raise ValueError(f"preprocess: expected one of {', '.join(get_args(PreprocessName))}, got {name!r}")
        self.name = name
        self.divisor = divisor
        self.pad_value = pad_value
        self.output_dtype, self.channels_last = torch.float32, False
        self.order, mean, std = _RULES[name]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Sequence[Tensor]) -> ImageBatch:
        """Images ``[3, h_i, w_i]`` uint8 RGB, of any sizes and on any device, to one batch on the model's device."""
        check_images(images)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        least = LEAST_SIDE if sizes else 0
        height, width = (_round_up(max((size[i] for size in sizes), default=0), self.divisor) for i in (0, 1))
        height, width = max(height, least), max(width, least)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        batch = self.mean.new_empty(len(images), 3, height, width).to(memory_format=layout).zero_()
        if self.pad_value == "black":
            batch -= self.mean / self.std
        for pixels, image in zip(batch, images, strict=True):
            planes = image.to(self.mean.device, non_blocking=True)
            # BGR by a flip: an index list would be copied to the device, and waited for.
            planes = (planes if self.order == (0, 1, 2) else planes.flip(0)).to(self.mean.dtype)
            torch.sub(planes, self.mean, out=pixels[:, : image.shape[1], : image.shape[2]]).div_(self.std)
        return ImageBatch(batch.to(self.output_dtype), sizes, self.divisor)

    def batches(self, images: Sequence[Tensor]) -> Iterator[tuple[list[int], ImageBatch]]:
        """Batches of images that need the same padding, each with the indices of its images."""
        for members in self.groups(images):
            yield members, self([images[index] for index in members])

    def groups(self, images: Sequence[Tensor]) -> list[list[int]]:
        """Indices of images that need the same padding, and so can share a batch without seeing one another's."""
        members: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            padded = _round_up(image.shape[-2], self.divisor), _round_up(image.shape[-1], self.divisor)
            members.setdefault(padded, []).append(index)
        return list(members.values())


def check_images(images: Sequence[Tensor] | Tensor) -> None:
    """Refuse what is no list of ``[3, h_i, w_i]`` uint8 tensors; a tensor ``[N, 3, h, w]`` counts as a list.

    Raises:
        ValueError: naming the image.
    """
    if isinstance(images, Tensor) and images.ndim != 4:
        raise ValueError(
            f"images: expected a list of tensors [3, height, width], got one tensor {list(images.shape)}; write [image]"
        )
    for index, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise ValueError(
                f"images[{index}]: expected a uint8 RGB tensor [3, height, width], got {type(image).__name__}; "
                "dcn.load takes files, arrays and pictures"
            )
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
            raise ValueError(
                f"images[{index}]: expected a uint8 RGB tensor [3, height, width] with at least one pixel, "
                f"got {image.dtype} {list(image.shape)}"
            )


def _round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
