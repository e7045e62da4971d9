"""COCO instances: one JSON file with images, categories and annotations, and a folder of images.

Category ids, which may have gaps, become labels ``0 .. C-1`` in ascending order of the ids; ``category_ids[label]``
leads back for result files. Boxes ``[x, y, w, h]`` are continuous already: ``x2 = x + w``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from dcn.data.datasets.coco_files import (
    CocoFile,
    CocoRecord,
    flat_boxes,
    join,
    locate,
    read_instances,
    size_problem,
)
from dcn.data.images import read_image
from dcn.data.masks import decode_mask
from dcn.data.problems import attempt, refuse
from dcn.structures import Sample, Target


class Coco:
    """A split of a folder of COCO instances.

    Args:
        root: the folder of the data.
        split: ``"train2017"``, say, or several with a plus: ``"train2014+val2014"``.
        annotations: the annotation file, relative to ``root``; otherwise ``annotations/instances_<split>.json`` or
            ``<split>.json`` or ``annotations/image_info_<split>.json``, whichever exists. The last one,
            published for test images, may go without annotations.
        images: the image folder, relative to ``root``; otherwise the first that exists of ``<split>``,
            ``images/<split>``, a folder whose name ``<split>`` begins with (``val2017`` for ``val2017_100``,
            ``test2017`` for ``test-dev2017``), ``images``, and ``root`` itself.
        masks: decode the segmentations (polygons, RLE). Where no object of the file has one, masks are ``None``.
        keep_empty: keep images without an object that training may use. ``False`` drops them, as the original code
            does for training (crowds do not count).
        flat: what to do with a box of width or height 0: ``"skip"`` it with one warning that counts them, or ``"keep"``
            it.

    Attributes:
        annotation_files: one per split that was joined.
        category_ids: the file's category id of every label.
        annotated: whether the file has annotations at all, be it for no image.

    Raises:
        ValueError: the first problem met, naming file and entry; ``dcn data check`` lists all of them. Segmentations
            are decoded, and found at fault, when their image is asked for.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        *,
        annotations: str | None = None,
        images: str | None = None,
        masks: bool = True,
        keep_empty: bool = True,
        flat: str = "skip",
    ) -> None:
        if flat not in ("skip", "keep"):
            raise ValueError(f"flat: expected 'skip' or 'keep', got {flat!r}")
        places = [locate(Path(root), part, annotations, images) for part in split.split("+")]
        files = [read_instances(path, folder, refuse) for path, folder in places]
        file = join(files)
        self.name = f"{Path(root).name}:{split}"
        self.annotation_files = tuple(part.path for part in files)
        self._source = {record.id: part.path for part in files for record in part.records}
        self.category_ids = tuple(file.categories)
        self.annotated = file.annotated
        self.classes = tuple(file.categories.values())
        self.has_masks = masks and file.has_masks
        records = list(file.records) if flat == "keep" else _without_flat(file, self.name)
        if not keep_empty:
            records = [record for record in records if not all(item.crowd for item in record.objects)]
        self.records = tuple(records)
        self.sizes = [record.size for record in records]
        self._labels = {category: label for label, category in enumerate(self.category_ids)}

    def __len__(self) -> int:
        return len(self.records)

    def image_path(self, index: int) -> Path:
        """The image file of one record."""
        return self.records[index].image

    def target(self, index: int) -> Target:
        """The annotation of one image without decoding the image; ``image_id`` is the file's number."""
        record = self.records[index]
        objects = record.objects
        return Target(
            boxes=torch.tensor([item.box for item in objects], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([self._labels[item.category] for item in objects], dtype=torch.int64),
            masks=self._masks(record) if self.has_masks else None,
            crowd=torch.tensor([item.crowd for item in objects], dtype=torch.bool),
            area=torch.tensor([item.area for item in objects], dtype=torch.float32),
            size=record.size,
            image_id=record.id,
        )

    def _masks(self, record: CocoRecord) -> torch.Tensor:
        masks = torch.zeros(len(record.objects), *record.size, dtype=torch.bool)
        for mask, item in zip(masks, record.objects, strict=True):
            decode = partial(decode_mask, item.segmentation, record.size)
            decoded = attempt(decode, refuse, self._source[record.id], f"annotation id {item.id}")
            assert decoded is not None  # refuse raises
            mask.copy_(decoded)
        return masks

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        image = read_image(record.image)
        if tuple(image.shape[1:]) != record.size:
            refuse(size_problem(self._source[record.id], record, (image.shape[1], image.shape[2])))
        return Sample(image, self.target(index))


def _without_flat(file: CocoFile, name: str) -> Sequence[CocoRecord]:
    count = flat_boxes(file, lambda problem: None)
    if count:
        warnings.warn(f"{name}: {count} boxes without extent skipped; `dcn data check` names them", stacklevel=3)
    return [
        CocoRecord(record.id, record.image, record.size, tuple(item for item in record.objects if not item.flat))
        for record in file.records
    ]
