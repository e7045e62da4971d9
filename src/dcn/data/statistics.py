"""Statistics of boxes: sizes, aspect ratios, objects per image and class; and anchors that fit them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcn.data.dataset import Dataset
from dcn.data.splitting import target_of
from dcn.structures import Target
from dcn.suggest import cells_of, padded

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
STRIDES = (4, 8, 16, 32, 64)
"""Strides of the levels of a feature pyramid, whose anchors have sides of ``anchor_scale * stride``."""

DEFAULT_SCALE, DEFAULT_RATIOS = 8.0, (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class BoxSizes:
    """All objects of a dataset, as one column each.

    Attributes:
        classes: names of the labels.
        labels: ``[N]`` int64.
        widths: ``[N]`` float32, in pixels of the files.
        heights: ``[N]`` float32.
        scales: ``[N]`` float32: the factor by which the image of the object is resized for the model.
        per_image: objects in each image.
        image_sizes: ``(height, width)`` of each image.
        short: shorter side of images at the model.
        long: upper limit of their longer side.
    """

    classes: tuple[str, ...]
    labels: Tensor
    widths: Tensor
    heights: Tensor
    scales: Tensor
    per_image: tuple[int, ...]
    image_sizes: tuple[tuple[int, int], ...]
    short: int
    long: int

    @property
    def sides(self) -> Tensor:
        """``[N]``: square roots of the areas at the model's input, in pixels."""
        return (self.widths * self.heights).sqrt() * self.scales

    @property
    def ratios(self) -> Tensor:
        """``[N]``: height / width."""
        return self.heights / self.widths


def box_sizes(datasets: Sequence[Dataset], short: int, long: int) -> BoxSizes:
    """Read all boxes; crowds and boxes without extent are left out.

    Raises:
        ValueError: segmentation masks instead of boxes, sizes below 1, or no object.
    """
    if short < 1 or long < short:
        raise ValueError(f"short, long: expected 1 <= short <= long, got {short} and {long}")
    labels: list[Tensor] = []
    boxes: list[Tensor] = []
    scales: list[Tensor] = []
    per_image: list[int] = []
    sizes: list[tuple[int, int]] = []
    for dataset in datasets:
        for index in range(len(dataset)):
            target = target_of(dataset, index)
            if not isinstance(target, Target):
                raise ValueError(f"dataset: expected boxes, got segmentation masks in {dataset.name}")
            assert target.crowd is not None
            extent = target.boxes[:, 2:] - target.boxes[:, :2]
            kept = ~target.crowd & (extent > 0).all(1)
            height, width = target.size
            scale = min(short / min(height, width), long / max(height, width))
            labels.append(target.labels[kept])
            boxes.append(extent[kept])
            scales.append(torch.full((int(kept.sum()),), scale))
            per_image.append(int(kept.sum()))
            sizes.append(target.size)
    if not sum(per_image):
        raise ValueError(
            f"{', '.join(dataset.name for dataset in datasets)}: expected one object or more to count, got none"
        )
    extents = torch.cat(boxes)
    classes = datasets[0].classes
    return BoxSizes(
        classes,
        torch.cat(labels),
        extents[:, 0],
        extents[:, 1],
        torch.cat(scales),
        tuple(per_image),
        tuple(sizes),
        short,
        long,
    )


def statistics(sizes: BoxSizes) -> dict[str, Any]:
    """What `statistics_table` prints, for JSON: counts by class, and quantiles of sizes, ratios and numbers."""
    counts = Counter(sizes.labels.tolist())
    sides = sizes.sides
    classes = {
        name: {
            "objects": counts[label],
            "side": _quantiles(sides[sizes.labels == label]),
            "ratio": _quantiles(sizes.ratios[sizes.labels == label]),
        }
        for label, name in enumerate(sizes.classes)
    }
    heights, widths = (torch.tensor(column, dtype=torch.float32) for column in zip(*sizes.image_sizes, strict=True))
    return {
        "images": len(sizes.per_image),
        "objects": len(sizes.labels),
        "empty_images": sum(not count for count in sizes.per_image),
        "input": {"short": sizes.short, "long": sizes.long},
        "objects_per_image": _quantiles(torch.tensor(sizes.per_image, dtype=torch.float32)),
        "image_height": _quantiles(heights),
        "image_width": _quantiles(widths),
        "side": _quantiles(sides),
        "ratio": _quantiles(sizes.ratios),
        "size_classes": {
            "small": int((sides < 32).sum()),
            "medium": int(((sides >= 32) & (sides < 96)).sum()),
            "large": int((sides >= 96).sum()),
        },
        "classes": classes,
    }


def _quantiles(values: Tensor) -> dict[str, float]:
    if not values.numel():
        return {}
    ordered = values.double().sort().values  # torch.quantile is limited to 16 million values
    positions = [min(int(q * (len(ordered) - 1) + 0.5), len(ordered) - 1) for q in QUANTILES]
    return {f"{q:g}": round(float(ordered[position]), 4) for q, position in zip(QUANTILES, positions, strict=True)}


def statistics_table(content: Mapping[str, Any]) -> str:
    """The statistics as text."""
    head = ("", "objects", *(f"{q:.0%}" for q in QUANTILES))
    rows: list[tuple[str, ...]] = [head]
    rows.append(_row("objects per image", content["images"], content["objects_per_image"]))
    rows.append(_row("image height", content["images"], content["image_height"]))
    rows.append(_row("image width", content["images"], content["image_width"]))
    rows.append(_row("height / width of objects", content["objects"], content["ratio"]))
    rows.append(_row("side of objects", content["objects"], content["side"]))
    rows += [_row(f"  {name}", entry["objects"], entry["side"]) for name, entry in content["classes"].items()]
    widths = [max(cells_of(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            padded(cell, w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    small, medium, large = (content["size_classes"][name] for name in ("small", "medium", "large"))
    size = content["input"]
    return "\n".join(
        [
            f"{content['images']} images, {content['empty_images']} without an object; {content['objects']} objects",
            *lines,
            f"side: root of the area in pixels at the model's input (short {size['short']}, long {size['long']})",
            f"{small} objects are small at that size (below 32), {medium} medium, {large} large (96 and more)",
        ]
    )


def _row(name: str, count: int, quantiles: Mapping[str, float]) -> tuple[str, ...]:
    cells = [f"{value:.3g}" if value < 10 else f"{value:.0f}" for value in quantiles.values()] or ["-"] * len(QUANTILES)
    return (name, str(count), *cells)


@dataclass(frozen=True)
class Anchors:
    """Anchors for a feature pyramid.

    Attributes:
        scale: ``anchor_scale``: side of an anchor over the stride of its level.
        ratios: heights over widths.
        overlap: mean over the objects of the best IoU with an anchor of the same center.
        recall: share of the objects whose best IoU is 0.5 or more.
    """

    scale: float
    ratios: tuple[float, ...]
    overlap: float
    recall: float


def evaluate_anchors(sizes: BoxSizes, scale: float, ratios: Sequence[float]) -> Anchors:
    """How well anchors cover the objects at the model's input, wherever they lie."""
    widths, heights = (sizes.widths * sizes.scales)[:, None], (sizes.heights * sizes.scales)[:, None]
    sides = scale * torch.tensor(STRIDES, dtype=torch.float32)
    roots = torch.tensor([math.sqrt(ratio) for ratio in ratios])
    anchor_w, anchor_h = (sides[:, None] / roots).flatten(), (sides[:, None] * roots).flatten()
    inner = torch.minimum(widths, anchor_w) * torch.minimum(heights, anchor_h)
    best = (inner / (widths * heights + anchor_w * anchor_h - inner)).amax(1)
    return Anchors(scale, tuple(ratios), float(best.mean()), float((best >= 0.5).float().mean()))


def best_scale(sizes: BoxSizes, ratios: Sequence[float]) -> Anchors:
    """The anchors of these ratios whose scale covers the objects best: of steps of a quarter octave from 1 to 32."""
    candidates = [evaluate_anchors(sizes, round(2 ** (step / 4), 2), ratios) for step in range(21)]
    return max(candidates, key=lambda anchors: anchors.overlap)


def propose_anchors(sizes: BoxSizes, count: int = 3) -> Anchors:
    """The anchors, of one scale for all levels and ``count`` ratios, that cover the objects best.

    Ratios are the centers of the logarithms of height / width (k-means in one dimension); the scale is that of
    `best_scale`.

    Raises:
        ValueError: ``count`` below 1.
    """
    if count < 1:
        raise ValueError(f"ratios: expected 1 or more, got {count}")
    ratios = _centers(sizes.ratios.double().log(), count)
    rounded = tuple(sorted({round(math.exp(center), 2) for center in ratios}))
    return best_scale(sizes, rounded)


def _centers(values: Tensor, count: int) -> list[float]:
    """Centers of one-dimensional k-means, begun at quantiles: the same values give the same centers."""
    ordered = values.sort().values
    starts = [ordered[int((number + 0.5) / count * (len(ordered) - 1))] for number in range(count)]
    centers = torch.stack(starts).unique()
    for _ in range(100):
        nearest = (values[:, None] - centers).abs().argmin(1)
        means = torch.stack(
            [values[nearest == k].mean() if bool((nearest == k).any()) else centers[k] for k in range(len(centers))]
        )
        if torch.allclose(means, centers, atol=1e-9):
            break
        centers = means
    return [float(center) for center in centers]
