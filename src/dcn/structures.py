"""What passes between data, models, metrics and pictures: small frozen records that check themselves.

One box convention holds everywhere in the package: ``xyxy`` in continuous pixel coordinates, the left edge of the
leftmost pixel is 0, the right edge of the rightmost one is the image width, so ``width = x2 - x1``. Readers and
writers of inclusive formats (Pascal VOC, the original MXNet code) convert at their border.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dcn import as_supervision, notebook
from dcn.colors import Color


def _check(name: str, value: Tensor, shape: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    wrong_rank = value.ndim != len(shape)
    if wrong_rank or any(want not in (None, got) for want, got in zip(shape, value.shape, strict=True)):
        shape_text = "[" + ", ".join("any" if s is None else str(s) for s in shape) + "]"
        raise ValueError(f"{name}: expected shape {shape_text}, got {list(value.shape)}")
    if value.dtype not in dtypes:
        raise ValueError(f"{name}: expected {' or '.join(map(str, dtypes))}, got {value.dtype}")


def _moved(value: Tensor, device: torch.device | str) -> Tensor:
    """On the way to the host a copy is waited for: nothing would tell when it may be read."""
    return value.to(device, non_blocking=torch.device(device).type != "cpu")


@dataclass(frozen=True)
class Target:
    """The annotation of one image for detection and instance segmentation.

    Attributes:
        boxes: ``[N, 4]`` float32, xyxy in pixels of the image it accompanies (continuous edges, see the module).
        labels: ``[N]`` int64, class index ``0 .. C-1`` (no background class).
        masks: ``[N, H, W]`` bool, or ``None`` where the data has none.
        crowd: ``[N]`` bool, COCO's ``iscrowd``: a region of many objects; not trained on, matched freely in evaluation.
        difficult: ``[N]`` bool, VOC's ``difficult``: not trained on, ignored in evaluation.
        area: ``[N]`` float32, the annotated area in pixels² of the *original* image (COCO size classes use it).
        image_id: the identifier of the data set (COCO number, VOC file stem).
        size: ``(height, width)`` of the image that the boxes refer to.
        original_size: ``(height, width)`` of the image in the file, before any resizing.
    """

    boxes: Tensor
    labels: Tensor
    size: tuple[int, int]
    masks: Tensor | None = None
    crowd: Tensor | None = None
    difficult: Tensor | None = None
    area: Tensor | None = None
    image_id: int | str = 0
    original_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check("boxes", self.boxes, (None, 4), (torch.float32, torch.float64))
        n = self.boxes.shape[0]
        _check("labels", self.labels, (n,), (torch.int64,))
        flags = torch.zeros(n, dtype=torch.bool, device=self.boxes.device)
        for name in ("crowd", "difficult"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, flags)
            _check(name, getattr(self, name), (n,), (torch.bool,))
        if self.area is None:
            object.__setattr__(self, "area", (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1))
        assert self.area is not None
        _check("area", self.area, (n,), (torch.float32, torch.float64))
        if self.masks is not None:
            _check("masks", self.masks, (n, *self.size), (torch.bool,))
        if self.original_size is None:
            object.__setattr__(self, "original_size", self.size)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    @property
    def ignored(self) -> Tensor:
        """``[N]`` bool: objects that training leaves out (crowd or difficult)."""
        assert self.crowd is not None
        assert self.difficult is not None
        return self.crowd | self.difficult

    def select(self, keep: Tensor) -> Target:
        """The same target with only the objects of an index or boolean tensor ``[N]``."""
        return self._each(lambda value: value[keep])

    def to(self, device: torch.device | str) -> Target:
        """The same target with its tensors on ``device``; a copy from pinned memory to a GPU is not waited for."""
        return self._each(lambda value: _moved(value, device))

    def pin_memory(self) -> Target:
        """The same target in memory that a GPU reads by itself; what the loader of torch calls."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Target:
        def changed(value: Tensor | None) -> Tensor | None:
            return None if value is None else change(value)

        return replace(
            self,
            boxes=change(self.boxes),
            labels=change(self.labels),
            masks=changed(self.masks),
            crowd=changed(self.crowd),
            difficult=changed(self.difficult),
            area=changed(self.area),
        )


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best first.

    Attributes:
        boxes: ``[N, 4]`` float32, xyxy in pixels of the image that was given.
        scores: ``[N]`` float32 in ``[0, 1]``.
        labels: ``[N]`` int64, class index ``0 .. C-1``.
        masks: ``[N, H, W]`` bool at the size of that image, or ``None`` for a detector without masks.
        classes: names of the labels, where they are known: what :func:`dcn.load` gives predicts with them.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    classes: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check("boxes", self.boxes, (None, 4), (torch.float32, torch.float64))
        n = self.boxes.shape[0]
        _check("scores", self.scores, (n,), (torch.float32, torch.float64))
        _check("labels", self.labels, (n,), (torch.int64,))
        if self.masks is not None:
            _check("masks", self.masks, (n, None, None), (torch.bool,))

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def _repr_html_(self) -> str:
        return notebook.boxes_html(self.boxes, self.scores, self.labels)

    def _repr_png_(self) -> bytes:
        return notebook.boxes_png(self.boxes, self.labels)

    def select(self, keep: Tensor) -> Detections:
        """Only the detections of an index or boolean tensor ``[N]``."""
        masks = None if self.masks is None else self.masks[keep]
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], masks, self.classes)

    def to(self, device: torch.device | str) -> Detections:
        """The same detections with their tensors on ``device``."""
        masks = None if self.masks is None else self.masks.to(device)
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device), masks, self.classes)

    def to_supervision(self, classes: Sequence[str] | None = None) -> Any:
        """The same detections as ``supervision.Detections``, in the same order.

        Args:
            classes: names of the labels for ``data["class_name"]``; ``None``: those of the detections, if any.

        Returns:
            ``supervision.Detections`` with ``xyxy``, ``confidence``, ``class_id``, ``mask`` (``None`` without masks)
            and ``data``.

        Raises:
            MissingPackageError: the package supervision is not installed.
        """
        names = self.classes if classes is None else classes
        return as_supervision.from_boxes(self.boxes, self.scores, self.labels, self.masks, names)


@dataclass(frozen=True)
class SegmentationMap:
    """A class index for every pixel of one image.

    Attributes:
        labels: ``[H, W]`` int64, ``0 .. C-1``; 255 is ignored in training and evaluation.
        image_id: the identifier of the data set.
        classes: names of the labels, where they are known: what :func:`dcn.load` gives predicts with them.
        colors: RGB (0..255) of each label, where the masks of the data set have colours of their own.
    """

    labels: Tensor
    image_id: int | str = 0
    classes: tuple[str, ...] | None = field(default=None, repr=False)
    colors: tuple[Color, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check("labels", self.labels, (None, None), (torch.int64,))

    def _repr_png_(self) -> bytes:
        return notebook.labels_png(self.labels, self.colors)

    def to(self, device: torch.device | str) -> SegmentationMap:
        """The same map on ``device``; a copy from pinned memory to a GPU is not waited for."""
        return replace(self, labels=_moved(self.labels, device))

    def pin_memory(self) -> SegmentationMap:
        """The same map in memory that a GPU reads by itself; what the loader of torch calls."""
        return replace(self, labels=self.labels.pin_memory())

    def to_supervision(self, classes: Sequence[str] | None = None) -> Any:
        """The map as ``supervision.Detections``: one for each class that occurs, with its pixels as ``mask``.

        Args:
            classes: names of the labels for ``data["class_name"]``; ``None``: those of the map, if any.

        Returns:
            ``supervision.Detections`` in the order of ``class_id``; ``xyxy`` is the box around the pixels, and there is
            no ``confidence``. Pixels of 255 belong to no class.

        Raises:
            MissingPackageError: the package supervision is not installed.
        """
        return as_supervision.from_map(self.labels, self.classes if classes is None else classes)

    def resized(self, size: tuple[int, int]) -> SegmentationMap:
        """The map at ``(height, width)``, nearest neighbour: pixel ``i`` is pixel ``floor(i * old / new)`` of this one.

        That is the rule of OpenCV's nearest resizing, with which the original code compares maps of two sizes.
        """
        if size == tuple(self.labels.shape):
            return self
        rows, columns = (
            torch.arange(new, device=self.labels.device) * old // new
            for new, old in zip(size, self.labels.shape, strict=True)
        )
        return replace(self, labels=self.labels[rows][:, columns])


@dataclass(frozen=True)
class Sample:
    """One image with its annotation, as a dataset gives it and a transform returns it.

    Attributes:
        image: ``[3, H, W]`` uint8, RGB.
        target: the annotation, in pixels of ``image``.
    """

    image: Tensor
    target: Target | SegmentationMap

    def __post_init__(self) -> None:
        _check("image", self.image, (3, None, None), (torch.uint8,))

    def pin_memory(self) -> Sample:
        """The same sample in memory that a GPU reads by itself; what the loader of torch calls."""
        return Sample(self.image.pin_memory(), self.target.pin_memory())
