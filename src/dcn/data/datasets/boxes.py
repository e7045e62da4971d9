"""Boxes from files without a dataset class of their own: XML beside images, YOLO text files, CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dcn.class_names import check_class_names
from dcn.data.reading import ImageReading, Opening, check_degenerate, warn_of_degenerate
from dcn.formats.masks import decode_masks
from dcn.formats.problems import refuse
from dcn.formats.records import BoxFiles, BoxRecord, report_degenerate, report_unknown_classes, size_problem
from dcn.structures import Sample, Target

ReadSplit = Callable[..., BoxFiles]
"""``read(root, split, report, upright=...)``: hands problems to ``report`` and leaves out what it cannot read."""


class Boxes:
    """A split of images with named boxes, and masks where every object has a polygon.

    Args:
        name: for logs.
        files: what was read.
        classes: the names in label order; ``None`` or ``"auto"``: those of the files.
        masks: decode polygons. Where an object has none, masks are ``None``.
        keep_empty: keep images without an object that training may use.
        degenerate: what to do with a box without extent: ``"skip"`` it with one warning, or ``"keep"`` it.
        upright: turn photos as their EXIF orientation says.
        broken: what to do about damaged images, see `ImageReading`.

    Raises:
        ValueError: an object of an unknown class, no images, or an unknown option.
    """

    def __init__(
        self,
        name: str,
        files: BoxFiles,
        *,
        classes: Sequence[str] | None = None,
        masks: bool = False,
        keep_empty: bool = True,
        degenerate: str = "skip",
        upright: bool = False,
        broken: str = "refuse",
    ) -> None:
        check_degenerate(degenerate)
        self.name = name
        automatic = classes is None or classes == "auto"
        self.classes = check_class_names(files.classes if automatic or classes is None else classes)
        report_unknown_classes(files, self.classes, refuse)
        records = list(files.records)
        objects = [item for record in records for item in record.objects]
        self.has_masks = masks and bool(objects) and all(item.segmentation is not None for item in objects)
        if degenerate == "skip":
            warn_of_degenerate(name, report_degenerate(records, lambda problem: None))
            records = [_without_degenerate(record) for record in records]
        if not keep_empty:
            records = [record for record in records if not all(item.difficult for item in record.objects)]
        self.records = tuple(records)
        self.sizes = [record.size for record in records]
        self.reading = ImageReading(broken, upright, [record.image for record in records])
        self._labels = {known: label for label, known in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.records)

    def image_path(self, index: int) -> Path:
        """The image file of one record."""
        return self.records[index].image

    def target(self, index: int) -> Target:
        """The annotation of one image without decoding the image; ``image_id`` is its name in the folder."""
        record = self.records[index]
        outlines = [item.segmentation for item in record.objects]
        return Target(
            boxes=torch.tensor([item.box for item in record.objects], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([self._labels[item.name] for item in record.objects], dtype=torch.int64),
            masks=decode_masks(outlines, record.size) if self.has_masks else None,
            difficult=torch.tensor([item.difficult for item in record.objects], dtype=torch.bool),
            size=record.size,
            image_id=record.name,
        )

    def __getitem__(self, index: int) -> Sample:
        return self.reading.sample(range(len(self))[index], self._read)

    def intact(self, index: int) -> Sample | None:
        """The sample of an index; ``None`` where its image is damaged and skipped."""
        return self.reading.intact(index, self._read)

    def _read(self, index: int) -> Sample:
        image = self.reading.image(index)
        height, width = image.shape[1:]
        if (height, width) != self.records[index].size:
            refuse(size_problem(self.records[index], (height, width)))
        return Sample(image, self.target(index))


def _without_degenerate(record: BoxRecord) -> BoxRecord:
    return replace(record, objects=tuple(item for item in record.objects if not item.degenerate))


def open_boxes(
    read: ReadSplit,
    root: str | Path,
    split: str = "all",
    *,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    keep_empty: bool = True,
    degenerate: str = "skip",
    upright: bool = False,
    broken: str = "refuse",
    outside: str = "refuse",
) -> Boxes:
    """Open a split with the reader of a format; options as in `Boxes`.

    ``outside``: a box that reaches outside of its image is refused, or with ``"clip"`` cut to it with one warning that
    counts them; one that has nothing left inside is degenerate.
    """
    name = f"{Path(root).name}:{split}"
    opening = Opening(broken, name, outside)
    files = read(Path(root), split, opening, upright=upright)
    opening.warn(len(files.records))
    return Boxes(
        name,
        files,
        classes=classes,
        masks=masks,
        keep_empty=keep_empty,
        degenerate=degenerate,
        upright=upright,
        broken=broken,
    )
