"""Outlines of objects as segmentation masks: a class for every pixel, from polygons and run lengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dcn.class_names import IGNORE
from dcn.data.dataset import Dataset
from dcn.data.reading import ImageReading, Tolerant, intact_sample
from dcn.structures import Sample, SegmentationMap, Target

BACKGROUND = "background"
_BACKGROUNDS = (BACKGROUND, "_background_", "__background__")
_IGNORED = "__ignore__"
"""A class of this name stands for pixels that do not count (LabelMe)."""


@dataclass(frozen=True)
class Outlines:
    """A dataset of objects with masks, as one of segmentation masks.

    Pixels outside of all objects are ``background``, the first class unless the data has one of this name. Where
    objects overlap, the smaller one is on top. Crowds, difficult objects and the class ``__ignore__`` become 255.
    """

    dataset: Dataset

    @property
    def name(self) -> str:
        """The name of the set."""
        return self.dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class indices."""
        kept = tuple(name for name in self.dataset.classes if name != _IGNORED)
        return kept if any(name.lower() in _BACKGROUNDS for name in kept) else (BACKGROUND, *kept)

    @property
    def sizes(self) -> Any:
        """``(height, width)`` of every image."""
        return self.dataset.sizes

    @property
    def reading(self) -> ImageReading:
        """How the set reads its images."""
        return self.dataset.reading if isinstance(self.dataset, Tolerant) else ImageReading("refuse", False, ())

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self._converted(self.dataset[index])

    def intact(self, index: int) -> Sample | None:
        """The sample of an index; ``None`` where its image is damaged and skipped."""
        sample = intact_sample(self.dataset, index)
        return None if sample is None else self._converted(sample)

    def image_path(self, index: int) -> Path | None:
        """The image file."""
        return self.dataset.image_path(index)

    def target(self, index: int) -> SegmentationMap:
        """The mask of one image; the image is decoded only where the dataset knows no other way."""
        read = getattr(self.dataset, "target", None)
        return self._mask(self.dataset[index].target if read is None else read(index))

    def _converted(self, sample: Sample) -> Sample:
        return Sample(sample.image, self._mask(sample.target))

    def _mask(self, target: Any) -> SegmentationMap:
        assert isinstance(target, Target)  # as_segmentation has looked
        if target.masks is None and len(target):
            raise ValueError(
                f"{self.name}: image {target.image_id}: expected an outline for every object, for its "
                "segmentation mask, got boxes; a segmentation model needs polygons, run lengths or index "
                "PNGs (masks of Pascal VOC: data.format=voc_segmentation)"
            )
        names = self.classes
        background = next(index for index, name in enumerate(names) if name.lower() in _BACKGROUNDS)
        value = {label: names.index(name) for label, name in enumerate(self.dataset.classes) if name != _IGNORED}
        labels = torch.full(target.size, background, dtype=torch.int64)
        if target.masks is not None:
            areas = target.masks.flatten(1).sum(1)
            for index in areas.argsort(descending=True, stable=True).tolist():
                ignored = bool(target.ignored[index])
                labels[target.masks[index]] = IGNORE if ignored else value.get(int(target.labels[index]), IGNORE)
        return SegmentationMap(labels, target.image_id)


def as_segmentation(dataset: Dataset) -> Dataset:
    """The dataset with segmentation masks; one that has them already stays as it is."""
    read = getattr(dataset, "target", None)
    if not len(dataset) or not isinstance(dataset[0].target if read is None else read(0), Target):
        return dataset
    return Outlines(dataset)
