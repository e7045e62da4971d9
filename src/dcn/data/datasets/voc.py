"""Pascal VOC: ``Annotations/*.xml``, ``ImageSets/Main/<split>.txt``, ``JPEGImages``.

The files hold 1-based inclusive corners; here ``x1 = xmin - 1`` and ``x2 = xmax`` (continuous edges). A box that passes
the image by less than a pixel (``xmin = 0``, rounding) is cut to it; for more see the option ``outside``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dcn.class_names import VOC_CLASSES
from dcn.data.reading import ImageReading, Opening, check_degenerate, known_size, warn_of_degenerate
from dcn.formats.problems import refuse
from dcn.formats.voc import (
    VocRecord,
    class_names,
    find_classes,
    read_split,
    report_degenerate,
    report_unknown_classes,
    size_problem,
)
from dcn.structures import Sample, Target


class Voc:
    """A split of a folder in the Pascal VOC layout.

    Args:
        root: the folder with ``Annotations``, ``ImageSets`` and ``JPEGImages``, or a VOCdevkit (or its parent).
        split: a list in ``ImageSets/Main``; in a VOCdevkit ``<year>_<list>``; several joined with ``+``.
        classes: the names in label order: the 20 VOC classes by default, ``"auto"`` for the names in the folder,
            sorted.
        keep_empty: keep images without an object that training may use. ``False`` drops them, as the original code
            does for training (difficult objects do not count).
        degenerate: what to do with a box whose corners coincide: ``"skip"`` it with one warning that counts them, or
            ``"keep"`` it.
        upright: turn photos as their EXIF orientation says, for annotations that were made on upright photos.
        broken: what to do about damaged images: ``"refuse"``, ``"skip"`` or ``"repair"``, see `ImageReading`.
        outside: what to do with a box that reaches outside of its image: ``"refuse"`` it, or ``"clip"`` it to the image
            with one warning that counts them. What has nothing left inside is degenerate.

    Raises:
        ValueError: the first problem of lists and annotations, naming file and entry; ``dcn data check`` lists all.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        classes: Sequence[str] = VOC_CLASSES,
        keep_empty: bool = True,
        degenerate: str = "skip",
        upright: bool = False,
        broken: str = "refuse",
        outside: str = "refuse",
    ) -> None:
        check_degenerate(degenerate)
        self.name = f"{Path(root).name}:{split}"
        opening = Opening(broken, self.name, outside)
        records = read_split(Path(root), split, opening, upright=upright)
        opening.warn(len(records))
        self.classes = class_names(classes, lambda: find_classes(records))
        report_unknown_classes(records, self.classes, refuse)
        if degenerate == "skip":
            records = _without_degenerate(records, self.name)
        if not keep_empty:
            records = [record for record in records if not all(item.difficult for item in record.objects)]
        self.records = tuple(records)
        self.sizes = [known_size(record.size) for record in records]
        self.reading = ImageReading(broken, upright, [self.image_path(index) for index in range(len(records))])
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.records)

    def image_path(self, index: int) -> Path:
        """The image file of one record."""
        path = self.records[index].image
        assert path is not None  # the reader was asked for images
        return path

    def truncated(self, index: int) -> Tensor:
        """``[N]`` bool: VOC's ``truncated`` flag of the objects of one image, in the order of its target."""
        return torch.tensor([item.truncated for item in self.records[index].objects], dtype=torch.bool)

    def target(self, index: int) -> Target:
        """The annotation of one image without decoding the image; ``image_id`` is what the list calls it."""
        record = self.records[index]
        return Target(
            boxes=torch.tensor([item.box for item in record.objects], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([self._labels[item.name] for item in record.objects], dtype=torch.int64),
            difficult=torch.tensor([item.difficult for item in record.objects], dtype=torch.bool),
            size=known_size(record.size),
            image_id=record.stem,
        )

    def __getitem__(self, index: int) -> Sample:
        return self.reading.sample(range(len(self))[index], self._read)

    def intact(self, index: int) -> Sample | None:
        """The sample of an index; ``None`` where its image is damaged and skipped."""
        return self.reading.intact(index, self._read)

    def _read(self, index: int) -> Sample:
        record = self.records[index]
        image = self.reading.image(index)
        if tuple(image.shape[1:]) != record.size:
            refuse(size_problem(record, (image.shape[1], image.shape[2])))
        return Sample(image, self.target(index))


def _without_degenerate(records: list[VocRecord], name: str) -> list[VocRecord]:
    warn_of_degenerate(name, report_degenerate(records, lambda problem: None))
    return [replace(r, objects=tuple(item for item in r.objects if not item.degenerate)) for r in records]
