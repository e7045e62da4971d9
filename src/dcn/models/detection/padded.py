"""Choices, proposals and detections of a batch as tensors whose shapes do not depend on what was found.

A device of its own computes while the host runs ahead. Asking how many boxes there are would make the host wait, so
between image and final result the number of places is fixed and a mask says which are filled; the filled ones come
first. On the CPU nothing is waited for and empty places would only cost time: there they are cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcn.structures import Detections

Size = tuple[int, int]


class _Shapes:
    """Whether :func:`fixed_shapes` is active."""

    forced = False


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """Inside, shapes are fixed on every device: what a CUDA graph or a trace records must be."""
    before, _Shapes.forced = _Shapes.forced, True
    try:
        yield
    finally:
        _Shapes.forced = before


def shapes_are_fixed(tensor: Tensor) -> bool:
    """Whether no shape may depend on values: everywhere but in eager mode on the CPU."""
    return _Shapes.forced or tensor.device.type != "cpu" or torch.compiler.is_compiling()


@dataclass(frozen=True)
class Places:
    """Some rows of a tensor.

    Attributes:
        indices: ``[K]`` int64, of the rows; in empty places those of any rows.
        valid: ``[K]`` bool: the place is filled.
    """

    indices: Tensor
    valid: Tensor

    def trimmed(self) -> Places:
        """Without empty places, unless shapes are fixed."""
        if shapes_are_fixed(self.valid):
            return self
        filled = self.valid.nonzero()[:, 0]
        return Places(self.indices[filled], self.valid[filled])

    def first(self, count: int) -> Places:
        """At most ``count`` filled places, the first ones, in their order; empty ones, if any, come last."""
        order = in_order(torch.arange(self.valid.numel(), device=self.valid.device), self.valid)
        return Places(self.indices[order.indices[:count]], order.valid[:count])

    def of(self, values: Tensor, empty: float = 0) -> Tensor:
        """``[K, ...]``: these rows of ``values`` ``[N, ...]``, with ``empty`` in empty places."""
        return values[self.indices].masked_fill(~self.valid.view(-1, *[1] * (values.ndim - 1)), empty)

    def spread(self, values: Tensor, count: int, rest: float) -> Tensor:
        """``[count, ...]``: ``values`` ``[K, ...]`` in these rows, ``rest`` elsewhere; the reverse of :meth:`of`."""
        result = values.new_full((count + 1, *values.shape[1:]), rest)
        # Empty places write into one row more, which is cut off.
        result[torch.where(self.valid, self.indices, count)] = values
        return result[:count]


def places_of(chosen: Tensor) -> Places:
    """The rows that are true in ``chosen`` ``[N]``, in their order; where shapes are fixed, others are empty places."""
    return Places(torch.arange(chosen.numel(), device=chosen.device), chosen).trimmed()


def in_order(indices: Tensor, valid: Tensor) -> Places:
    """Rows ``[K]`` in the order of their indices, empty places (trimmed, unless shapes are fixed) at the end."""
    last = torch.iinfo(torch.int64).max
    order = torch.where(valid, indices, last).sort().values
    filled = order < last
    return Places(torch.where(filled, order, 0), filled).trimmed()


def joined(*parts: Places) -> Places:
    """The places of one after those of another."""
    return Places(torch.cat([part.indices for part in parts]), torch.cat([part.valid for part in parts]))


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """A copy that nothing waits for of what lies on the host."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


@dataclass(frozen=True)
class Frames:
    """Sizes of the images of a batch as tensors on its device.

    Attributes:
        sizes: ``[N, 2]`` float32 (height, width) of what the network sees of each image.
        factors: ``[N, 4]`` float32 (x, y, x, y), from there to the pixels in which boxes are wanted.
        output_sizes: ``[N, 2]`` float32 (height, width) of the images in those pixels.
    """

    sizes: Tensor
    factors: Tensor
    output_sizes: Tensor


def make_frames(
    sizes: Sequence[Size], output_sizes: Sequence[Size], device: torch.device, clipped: Sequence[Size] | None = None
) -> Frames:
    """The sizes of a batch on ``device``, by one copy that nothing waits for.

    Args:
        sizes: ``(height, width)`` of each image as the network sees it.
        output_sizes: in whose pixels boxes are wanted.
        device: where the network is.
        clipped: what counts as the image where that is more than ``sizes`` (padding that counts).
    """
    rows = []
    for (height, width), (tall, wide), seen in zip(sizes, output_sizes, clipped or sizes, strict=True):
        x, y = wide / width, tall / height
        rows.append((*seen, x, y, x, y, tall, wide))
    table = to_device(torch.tensor(rows, dtype=torch.float32).view(-1, 8), device)
    return Frames(table[:, :2], table[:, 2:6], table[:, 6:])


@dataclass(frozen=True)
class Proposals:
    """Regions of every image, best first.

    Attributes:
        boxes: ``[N, P, 4]``; zeros in empty places.
        valid: ``[N, P]`` bool: the place is filled; all filled places of an image come first.
    """

    boxes: Tensor
    valid: Tensor

    def rois(self) -> Tensor:
        """``[N * P, 5]``: index of the image, then the box."""
        images, places = self.valid.shape
        index = torch.arange(images, device=self.boxes.device, dtype=self.boxes.dtype)
        return torch.cat((index[:, None, None].expand(images, places, 1), self.boxes), 2).flatten(0, 1)

    def trimmed(self) -> Proposals:
        """Without places that are empty in every image, unless shapes are fixed."""
        if shapes_are_fixed(self.boxes):
            return self
        places = int(self.valid.sum(1).max()) if self.valid.numel() else 0
        return Proposals(self.boxes[:, :places], self.valid[:, :places])

    def per_image(self) -> list[Tensor]:
        """``[P_i, 4]`` for each image: the filled places."""
        return [box[filled] for box, filled in zip(self.boxes, self.valid, strict=True)]


def best_proposals(boxes: Tensor, scores: Tensor, keep: Tensor, count: int) -> Proposals:
    """The ``count`` best of those that were kept.

    Args:
        boxes: ``[N, M, 4]``.
        scores: ``[N, M]``, not negative; equal ones stay in their order, NaN counts as 0.
        keep: ``[N, M]`` bool.
        count: places of the result (``M`` if that is less).
    """
    rank = torch.where(keep, scores.nan_to_num(0.0), -1.0)
    value, order = rank.sort(dim=1, descending=True, stable=True)
    value, order = value[:, :count], order[:, :count]
    valid = value >= 0
    chosen = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    return Proposals(torch.where(valid[..., None], chosen, 0.0), valid)


@dataclass(frozen=True)
class PaddedDetections:
    """Detections of every image, best first.

    Attributes:
        boxes: ``[N, D, 4]`` in pixels of the output.
        scores: ``[N, D]``.
        labels: ``[N, D]`` int64.
        valid: ``[N, D]`` bool: the place is filled; all filled places of an image come first.
        masks: ``[N, D, m, m]`` probabilities inside of the boxes, or ``None``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor
    masks: Tensor | None = None

    def trimmed(self) -> PaddedDetections:
        """Without places that are empty in every image, unless shapes are fixed."""
        if shapes_are_fixed(self.boxes):
            return self
        places = int(self.valid.sum(1).max()) if self.valid.numel() else 0
        parts = (value[:, :places] for value in (self.boxes, self.scores, self.labels, self.valid))
        return replace(self, **dict(zip(("boxes", "scores", "labels", "valid"), parts, strict=True)))

    def per_image(self) -> tuple[list[Detections], list[Tensor | None]]:
        """The filled places of every image, and the probabilities of their masks; the only wait for the device."""
        counts = self.valid.sum(1).tolist()
        # Copies: a view would keep all places of the batch in memory for as long as a detection lives.
        found = [
            Detections(self.boxes[i, :n].clone(), self.scores[i, :n].clone(), self.labels[i, :n].clone())
            for i, n in enumerate(counts)
        ]
        if self.masks is None:
            return found, [None] * len(counts)
        return found, [mask[:n] for mask, n in zip(self.masks, counts, strict=True)]


def pad_detections(found: Sequence[Detections]) -> PaddedDetections:
    """Detections of several images as one record, in their order and without masks."""
    most = max((len(one) for one in found), default=0)

    def column(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.cat((v, v.new_zeros(most - len(v), *v.shape[1:]))) for v in values])

    valid = column([torch.ones_like(one.scores, dtype=torch.bool) for one in found])
    parts = column([d.boxes for d in found]), column([d.scores for d in found]), column([d.labels for d in found])
    return PaddedDetections(*parts, valid)
