"""What every dataset offers; readers, wrappers and the generated set have nothing else in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from dcn.colors import Color
from dcn.structures import Sample

Transform = Callable[[Sample, torch.Generator], Sample]
"""A step of preparation: a sample and the only source of randomness it may use, to a new sample."""


class Dataset(Protocol):
    """Images with annotations, by index."""

    @property
    def name(self) -> str:
        """A short name for logs and pictures."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; label ``k`` of a target is ``classes[k]``."""

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """``(height, width)`` of every image, known without decoding it."""

    def __len__(self) -> int:
        """How many images there are."""

    def __getitem__(self, index: int) -> Sample:
        """The image and its annotation, in pixels of the file."""

    def image_path(self, index: int) -> Path | None:
        """The image file, or ``None`` for a generated image."""


def colors_of(dataset: Any) -> tuple[Color, ...] | None:
    """The colour of each class, where the masks of a data set, or of the one that it is a part of, have their own."""
    while (whole := getattr(dataset, "dataset", None)) is not None:
        dataset = whole
    colors: tuple[Color, ...] | None = getattr(dataset, "colors", None)
    return colors
