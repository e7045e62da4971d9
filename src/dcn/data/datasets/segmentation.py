"""Images with a class index for every pixel: what the readers of all segmentation datasets share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dcn.class_names import IGNORE
from dcn.colors import Color
from dcn.data.reading import ImageReading
from dcn.formats.color_masks import ColorReader
from dcn.formats.images import image_size, is_turned
from dcn.formats.index_masks import MaskFiles, ReadMask
from dcn.formats.problems import BrokenImageError, Problem, refuse
from dcn.structures import Sample, SegmentationMap

UNLABELLED = ("refuse", "skip", "keep")


class SegmentationDataset:
    """A split of a segmentation dataset.

    Args:
        name: for logs.
        classes: names of the class indices.
        files: the images with their masks.
        read: reads one mask.
        unlabelled: what to do with images without a mask: ``"refuse"``, ``"skip"`` them, or ``"keep"`` them with every
            pixel ignored (test sets whose annotation is kept back).
        upright: turn photos as their EXIF orientation says, for masks that were made on upright photos.
        broken: what to do about damaged images and masks: ``"refuse"``, ``"skip"`` or ``"repair"``, see `ImageReading`.
        note: what was concluded from the files, for ``dcn data check``.

    Raises:
        ValueError: there are no images, an image has no mask (``"refuse"``), or an unknown option.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        files: Sequence[MaskFiles],
        read: ReadMask,
        *,
        unlabelled: str = "refuse",
        upright: bool = False,
        broken: str = "refuse",
        note: str = "",
    ) -> None:
        if unlabelled not in UNLABELLED:
            raise ValueError(f"unlabelled: expected one of {', '.join(UNLABELLED)}, got {unlabelled!r}")
        if not files:
            raise ValueError(f"{name}: expected one image or more, got none")
        if unlabelled == "refuse":
            for item in files:
                if item.mask is None:
                    refuse(missing_mask(item))
        kept = [item for item in files if unlabelled == "keep" or item.mask is not None]
        self.name, self.classes, self.note = name, tuple(classes), note
        self.files, self._read_mask = tuple(kept), read
        self.reading = ImageReading(broken, upright, [item.image for item in kept])

    @cached_property
    def colors(self) -> tuple[Color, ...] | None:
        """The colour of each class, where the masks are in colours."""
        return self._read_mask.table.class_colors if isinstance(self._read_mask, ColorReader) else None

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """``(height, width)`` of every image, from the headers of the files; ``(1, 1)`` for one that is skipped."""
        return [self._size(item.image) for item in self.files]

    def _size(self, path: Path) -> tuple[int, int]:
        try:
            return image_size(path, upright=self.reading.upright)
        except BrokenImageError as error:
            if self.reading.broken == "refuse":
                raise self.reading.refusal(error) from error
            return 1, 1

    def __len__(self) -> int:
        return len(self.files)

    def image_path(self, index: int) -> Path:
        """The image file."""
        return self.files[index].image

    def target(self, index: int) -> SegmentationMap | None:
        """The mask of one image without decoding the image; ``None`` where there is none."""
        item = self.files[index]
        return None if item.mask is None else self._map(self._read_mask(item.mask), item)

    def _map(self, labels: Tensor, item: MaskFiles) -> SegmentationMap:
        return SegmentationMap(labels, item.image_id, colors=self.colors)

    def __getitem__(self, index: int) -> Sample:
        return self.reading.sample(range(len(self))[index], self._read)

    def intact(self, index: int) -> Sample | None:
        """The sample of an index; ``None`` where its image is damaged and skipped."""
        return self.reading.intact(index, self._read)

    def _read(self, index: int) -> Sample:
        item = self.files[index]
        image = self.reading.image(index)
        height, width = image.shape[1:]
        target = self.target(index) or self._map(torch.full((height, width), IGNORE), item)
        if target.labels.shape != (height, width):
            refuse(size_problem(item, target, (height, width)))
        return Sample(image, target)


def missing_mask(item: MaskFiles) -> Problem:
    """The problem of an image without a mask."""
    return Problem(item.image, "", "has no segmentation mask; the option unlabelled='skip' leaves such images out")


def size_problem(item: MaskFiles, target: SegmentationMap, size: tuple[int, int]) -> Problem:
    """The problem of a mask that is not as large as its image of ``(height, width)``."""
    got = tuple(target.labels.shape)
    message = f"expected the size of its image {size}, got {got} (height, width) for {item.image.name}"
    if got == size[::-1] and is_turned(item.image):
        message += "; the photo is stored turned (EXIF orientation) and annotated upright; set the option upright=true"
    elif abs(got[0] * size[1] - got[1] * size[0]) <= max(size):
        message += "; resize the mask to the size of its image, without smoothing (nearest neighbour)"
    elif got == size[::-1]:
        message += "; the mask is turned by a quarter"
    else:
        message += "; is it the mask of another image, or of a part of this one?"
    return Problem(item.mask or item.image, "", message)
