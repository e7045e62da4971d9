"""Some images of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dcn.data.dataset import Dataset
from dcn.data.reading import ImageReading, Tolerant, intact_sample
from dcn.structures import Sample


@dataclass(frozen=True)
class Subset:
    """Some images of a dataset, in the order of ``indices``."""

    dataset: Dataset
    indices: list[int]

    @property
    def name(self) -> str:
        """The name of the whole set."""
        return self.dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.dataset.classes

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """``(height, width)`` of every image."""
        return [self.dataset.sizes[index] for index in self.indices]

    @property
    def reading(self) -> ImageReading:
        """How the whole set reads its images; where it has no files, damaged images do not exist."""
        return self.dataset.reading if isinstance(self.dataset, Tolerant) else ImageReading("refuse", False, ())

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def intact(self, index: int) -> Sample | None:
        """The sample of an index; ``None`` where its image is damaged and skipped."""
        return intact_sample(self.dataset, self.indices[index])

    def image_path(self, index: int) -> Path | None:
        """The image file."""
        return self.dataset.image_path(self.indices[index])


def spread(dataset: Dataset, count: int | None) -> Dataset:
    """At most ``count`` images, spread evenly over the set."""
    if count is None or count >= len(dataset):
        return dataset
    return Subset(dataset, [number * len(dataset) // count for number in range(count)])
