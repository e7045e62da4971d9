"""Images with a class index for every pixel: what the readers of all segmentation sets share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dcn.data.geometry import IGNORE
from dcn.data.images import image_size, read_image, read_index_image
from dcn.data.problems import Problem, refuse
from dcn.structures import Sample, SegmentationMap

ReadLabels = Callable[[Path], Tensor]
"""A file to class indices ``[H, W]`` int64, ``0 .. C-1`` or 255."""

UNLABELLED = ("refuse", "skip", "keep")


@dataclass(frozen=True)
class MapFiles:
    """The files of one image.

    Attributes:
        image: the picture.
        labels: its label map, ``None`` where there is none.
        image_id: what the data set calls it.
    """

    image: Path
    labels: Path | None
    image_id: str


@dataclass(frozen=True)
class IndexReader:
    """Reads PNGs whose pixel values stand for classes.

    Attributes:
        table: stored value to class index, 255 for values that are ignored. 255 itself is always ignored.
    """

    table: Mapping[int, int]

    def __call__(self, path: Path) -> Tensor:
        """``[H, W]`` int64.

        Raises:
            ValueError: the file cannot be read as indices, or holds a value that the table does not know.
        """
        return self.apply(read_index_image(path), path)

    def apply(self, stored: Tensor, path: Path) -> Tensor:
        """The same for values already read."""
        known = {IGNORE: IGNORE, **self.table}
        unknown = sorted(set(torch.unique(stored).tolist()) - known.keys())
        if unknown:
            raise ValueError(f"{path}: holds the values {unknown[:8]}, expected only {_ranges(sorted(known))}")
        lookup = torch.full((max(known) + 1,), IGNORE)
        lookup[list(known)] = torch.tensor(list(known.values()))
        return lookup[stored]


class LabelMaps:
    """A split of a segmentation set.

    Args:
        name: for logs.
        classes: names of the class indices.
        files: the images with their label maps.
        read: reads one label map.
        unlabelled: what to do with images without a label map: ``"refuse"``, ``"skip"`` them, or ``"keep"`` them with
            every pixel ignored (test sets whose annotation is kept back).

    Raises:
        ValueError: there are no images, an image has no label map (``"refuse"``), or ``unlabelled`` is none of these.
    """

    def __init__(
        self, name: str, classes: Sequence[str], files: Sequence[MapFiles], read: ReadLabels, unlabelled: str = "refuse"
    ) -> None:
        if unlabelled not in UNLABELLED:
            raise ValueError(f"unlabelled: expected one of {', '.join(UNLABELLED)}, got {unlabelled!r}")
        if not files:
            raise ValueError(f"{name}: there are no images")
        if unlabelled == "refuse":
            for item in files:
                if item.labels is None:
                    refuse(missing_labels(item))
        kept = [item for item in files if unlabelled == "keep" or item.labels is not None]
        self.name, self.classes = name, tuple(classes)
        self.files, self._read = tuple(kept), read

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """``(height, width)`` of every image, from the headers of the files."""
        return [image_size(item.image) for item in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def image_path(self, index: int) -> Path:
        """The image file."""
        return self.files[index].image

    def target(self, index: int) -> SegmentationMap | None:
        """The label map of one image without decoding the image; ``None`` where there is none."""
        item = self.files[index]
        return None if item.labels is None else SegmentationMap(self._read(item.labels), item.image_id)

    def __getitem__(self, index: int) -> Sample:
        item = self.files[index]
        image = read_image(item.image)
        height, width = image.shape[1:]
        target = self.target(index) or SegmentationMap(torch.full((height, width), IGNORE), item.image_id)
        if target.labels.shape != (height, width):
            refuse(size_problem(item, target, (height, width)))
        return Sample(image, target)


def missing_labels(item: MapFiles) -> Problem:
    """The problem of an image without a label map."""
    return Problem(item.image, "", "has no label map; the option unlabelled='skip' leaves such images out")


def size_problem(item: MapFiles, target: SegmentationMap, size: tuple[int, int]) -> Problem:
    """The problem of a label map that is not as large as its image of ``(height, width)``."""
    found = tuple(target.labels.shape)
    return Problem(item.labels or item.image, "", f"expected the size of its image {size}, got {found}")


def _ranges(values: Sequence[int]) -> str:
    """``0-10, 255`` for sorted numbers."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
