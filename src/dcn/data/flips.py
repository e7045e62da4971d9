"""Doubling a data set with its mirror images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dcn.data.dataset import Dataset
from dcn.data.geometry import flip
from dcn.structures import Sample


@dataclass(frozen=True)
class WithFlips:
    """A data set and its mirror images: ``2 N`` samples, the second half flipped.

    The original MXNet code doubles the training set this way, so that an epoch shows every image both ways and the
    published schedules count such epochs. Elsewhere `RandomFlip` does as well.
    """

    dataset: Dataset

    @property
    def name(self) -> str:
        """The name of the data set, marked."""
        return f"{self.dataset.name}+flips"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the data set."""
        return self.dataset.classes

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Sizes of the images and of their mirror images."""
        return [*self.dataset.sizes, *self.dataset.sizes]

    def __len__(self) -> int:
        return 2 * len(self.dataset)

    def image_path(self, index: int) -> Path | None:
        """The file behind a sample, whether mirrored or not."""
        return self.dataset.image_path(index % len(self.dataset))

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        sample = self.dataset[index % len(self.dataset)]
        return flip(sample) if index >= len(self.dataset) else sample
