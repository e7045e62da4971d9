"""Pascal VOC: ``Annotations/*.xml``, ``ImageSets/Main/<split>.txt``, ``JPEGImages``.

The files hold 1-based inclusive corners; here ``x1 = xmin - 1`` and ``x2 = xmax`` (continuous edges). ``xmin = 0``,
which some tools write, is moved to the edge; a box that passes the image on the other side is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dcn.class_names import VOC_CLASSES
from dcn.data.datasets.voc_files import (
    VocRecord,
    class_names,
    find_classes,
    flat_boxes,
    read_split,
    size_problem,
    unknown_classes,
)
from dcn.data.images import read_image
from dcn.data.problems import refuse
from dcn.structures import Sample, Target


class Voc:
    """A split of a folder in the Pascal VOC layout.

    Args:
        root: the folder with ``Annotations``, ``ImageSets`` and ``JPEGImages``, or a VOCdevkit (or its parent).
        split: a list in ``ImageSets/Main``; in a VOCdevkit ``<year>_<list>``; several joined with ``+``.
        classes: the names in label order: the 20 VOC classes by default, ``"auto"`` for the names found in the folder,
            sorted.
        keep_empty: keep images without an object that training may use. ``False`` drops them, as the original code
            does for training (difficult objects do not count).
        flat: what to do with a box whose corners coincide: ``"skip"`` it with one warning that counts them, or
            ``"keep"`` it.

    Raises:
        ValueError: the first problem met, naming file and entry; ``dcn data check`` lists all of them.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        classes: Sequence[str] = VOC_CLASSES,
        keep_empty: bool = True,
        flat: str = "skip",
    ) -> None:
        if flat not in ("skip", "keep"):
            raise ValueError(f"flat: expected 'skip' or 'keep', got {flat!r}")
        records = read_split(Path(root), split, refuse)
        self.name = f"{Path(root).name}:{split}"
        self.classes = class_names(classes, lambda: find_classes(records))
        unknown_classes(records, self.classes, refuse)
        if flat == "skip":
            records = _without_flat(records, self.name)
        if not keep_empty:
            records = [record for record in records if not all(item.difficult for item in record.objects)]
        self.records = tuple(records)
        self.sizes = [record.size for record in records]

    def __len__(self) -> int:
        return len(self.records)

    def image_path(self, index: int) -> Path:
        """The image file of one record."""
        return self.records[index].image

    def truncated(self, index: int) -> Tensor:
        """``[N]`` bool: VOC's ``truncated`` flag of the objects of one image, in the order of its target."""
        return torch.tensor([item.truncated for item in self.records[index].objects], dtype=torch.bool)

    def target(self, index: int) -> Target:
        """The annotation of one image without decoding the image; ``image_id`` is the file stem."""
        record = self.records[index]
        return Target(
            boxes=torch.tensor([item.box for item in record.objects], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([self.classes.index(item.name) for item in record.objects], dtype=torch.int64),
            difficult=torch.tensor([item.difficult for item in record.objects], dtype=torch.bool),
            size=record.size,
            image_id=record.annotation.stem,
        )

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        image = read_image(record.image)
        if tuple(image.shape[1:]) != record.size:
            refuse(size_problem(record, (image.shape[1], image.shape[2])))
        return Sample(image, self.target(index))


def _without_flat(records: list[VocRecord], name: str) -> list[VocRecord]:
    count = flat_boxes(records, lambda problem: None)
    if not count:
        return records
    warnings.warn(f"{name}: {count} boxes without extent skipped; `dcn data check` names them", stacklevel=3)
    kept = [tuple(item for item in record.objects if not item.flat) for record in records]
    return [VocRecord(r.image, r.annotation, r.size, k) for r, k in zip(records, kept, strict=True)]
