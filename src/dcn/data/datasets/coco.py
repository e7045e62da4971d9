"""COCO instances: one JSON file with images, categories and annotations, and a folder of images.

Category ids, which may have gaps, become labels ``0 .. C-1`` in ascending order of the ids; ``category_ids[label]``
leads back for result files. Boxes ``[x, y, w, h]`` are continuous already: ``x2 = x + w``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dcn.data.reading import ImageReading, Opening, check_degenerate, known_size, warn_of_degenerate
from dcn.formats.coco import (
    CocoFile,
    CocoRecord,
    join,
    locate,
    read_instances,
    report_degenerate,
    size_problem,
)
from dcn.formats.masks import decode_masks
from dcn.formats.problems import attempt, refuse
from dcn.structures import Sample, Target

PerSplit = str | Mapping[str, str] | None
"""One name for all splits, or one for each: ``{"train": "a.json", "val": "b.json"}``."""


class Coco:
    """A split of a folder of COCO instances.

    Args:
        root: the folder of the data.
        split: ``"train2017"``, say, or several with a plus: ``"train2014+val2014"``.
        annotations: the annotation file, relative to ``root``, or one for each split; otherwise
            ``annotations/instances_<split>.json`` or ``<split>.json`` or ``annotations/image_info_<split>.json``,
            whichever exists. The last one, published for test images, may go without annotations.
        images: the image folder, relative to ``root``, or one for each split; otherwise the first that exists of
            ``<split>``, ``images/<split>``, a folder whose name ``<split>`` begins with (``val2017`` for
            ``val2017_100``, ``test2017`` for ``test-dev2017``), ``images``, and ``root`` itself.
        masks: decode the segmentations (polygons, RLE). Where no object of the file has one, masks are ``None``; where
            only some have one, that is an error.
        keep_empty: keep images without an object that training may use. ``False`` drops them, as the original code
            does for training (crowds do not count).
        degenerate: what to do with a box of width or height 0: ``"skip"`` it with one warning that counts them, or
            ``"keep"`` it.
        upright: turn photos as their EXIF orientation says, for annotations that were made on upright photos.
        broken: what to do about damaged images: ``"refuse"``, ``"skip"`` or ``"repair"``, see `ImageReading`.
        outside: what to do with a box that reaches outside of its image: ``"refuse"`` it, or ``"clip"`` it to the image
            with one warning that counts them. What has nothing left inside is degenerate.

    Attributes:
        annotation_files: one per split that was joined.
        category_ids: the file's category id of every label.
        annotated: whether the file has annotations at all, be it for no image.

    Raises:
        ValueError: the first problem of the annotation file, naming file and entry; ``dcn data check`` lists all.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        *,
        annotations: PerSplit = None,
        images: PerSplit = None,
        masks: bool = True,
        keep_empty: bool = True,
        degenerate: str = "skip",
        upright: bool = False,
        broken: str = "refuse",
        outside: str = "refuse",
    ) -> None:
        check_degenerate(degenerate)
        sources = [
            locate(Path(root), part, of_split("annotations", annotations, part), of_split("images", images, part))
            for part in split.split("+")
        ]
        opening = Opening(broken, f"{Path(root).name}:{split}", outside)
        files = [read_instances(path, folder, opening, masks=masks, upright=upright) for path, folder in sources]
        opening.warn(sum(len(part.records) for part in files))
        file = join(files)
        self.name = f"{Path(root).name}:{split}"
        self.annotation_files = tuple(part.path for part in files)
        self._source = {record.id: part.path for part in files for record in part.records}
        self.category_ids = tuple(file.categories)
        self.annotated = file.annotated
        self.classes = tuple(file.categories.values())
        self.has_masks = masks and file.has_masks
        records = list(file.records) if degenerate == "keep" else _without_degenerate(file, self.name)
        if not keep_empty:
            records = [record for record in records if not all(item.crowd for item in record.objects)]
        self.records = tuple(records)
        self.sizes = [known_size(record.size) for record in records]
        self.reading = ImageReading(broken, upright, [self.image_path(index) for index in range(len(records))])
        self._labels = {category: label for label, category in enumerate(self.category_ids)}

    def __len__(self) -> int:
        return len(self.records)

    def image_path(self, index: int) -> Path:
        """The image file of one record."""
        path = self.records[index].image
        assert path is not None  # the reader was asked for images
        return path

    def target(self, index: int) -> Target:
        """The annotation of one image without decoding the image; ``image_id`` is the file's id."""
        record = self.records[index]
        objects = record.objects
        return Target(
            boxes=torch.tensor([item.box for item in objects], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([self._labels[item.category] for item in objects], dtype=torch.int64),
            masks=self._masks(record) if self.has_masks else None,
            crowd=torch.tensor([item.crowd for item in objects], dtype=torch.bool),
            area=torch.tensor([item.area for item in objects], dtype=torch.float32),
            size=known_size(record.size),
            image_id=record.id,
        )

    def _masks(self, record: CocoRecord) -> torch.Tensor:
        segmentations = [item.segmentation for item in record.objects]
        decode = partial(decode_masks, segmentations, known_size(record.size))
        masks = attempt(decode, refuse, self._source[record.id], f"image id {record.id}")
        assert masks is not None  # refuse raises
        return masks

    def __getitem__(self, index: int) -> Sample:
        return self.reading.sample(range(len(self))[index], self._read)

    def intact(self, index: int) -> Sample | None:
        """The sample of an index; ``None`` where its image is damaged and skipped."""
        return self.reading.intact(index, self._read)

    def _read(self, index: int) -> Sample:
        record = self.records[index]
        image = self.reading.image(index)
        if tuple(image.shape[1:]) != record.size:
            refuse(size_problem(self._source[record.id], record, (image.shape[1], image.shape[2])))
        return Sample(image, self.target(index))


def of_split(option: str, value: PerSplit, split: str) -> str | None:
    """The name that an option gives for a split.

    Raises:
        ValueError: the option names one for each split, but none for this one.
    """
    if value is None or isinstance(value, str):
        return value
    if split not in value:
        raise ValueError(f"{option}: expected a name for the split {split!r}, got names for {', '.join(value)}")
    return value[split]


def _without_degenerate(file: CocoFile, name: str) -> Sequence[CocoRecord]:
    warn_of_degenerate(name, report_degenerate(file, lambda problem: None))
    return [
        replace(record, objects=tuple(item for item in record.objects if not item.degenerate))
        for record in file.records
    ]
