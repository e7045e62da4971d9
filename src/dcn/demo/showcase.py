"""The four demos of the original code as pictures: detections, segmentation, sampling points, parts of regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcn import boxes
from dcn.analysis import effective_dilation
from dcn.data.geometry import resize_image
from dcn.demo.shipped import DETECTOR, SEGMENTER, named_images
from dcn.formats.images import write_image
from dcn.report.explorer import Observation, chosen_parts, observe
from dcn.runs.outputs import OutputFolder, stems_of
from dcn.runs.predict import open_predictor
from dcn.runs.predictor import Predictor
from dcn.runs.sources import StrPath, shipped_models
from dcn.structures import Detections, SegmentationMap
from dcn.vis import LayerOffsets, contact_sheet, draw_detections, draw_sampling_points, offset_heatmap, sampling_points
from dcn.vis.rois import draw_parts

SIDE = 512
"""Small images are drawn with at least this longer side."""

MIN_SCORE = 0.5
LEVELS = 3
_CELLS = 16  # the shorter side of the image has at least so many units of the layer that is shown
_MOST_PARTS = 4
_MARGIN = 0.25  # of the region's sides, around it

Point = tuple[float, float]


@dataclass(frozen=True)
class Settings:
    """What a caller may choose.

    Attributes:
        min_score: detections below this score are not shown.
        points: (x, y) in pixels of the image whose units are shown; ``None``: on background, on the smallest and on the
            largest object.
        layer: name of the layer whose units are shown; ``None``: the last whose cells are small enough for the image.
    """

    min_score: float = MIN_SCORE
    points: Sequence[Point] | None = None
    layer: str | None = None


def detection_picture(predictor: Predictor, image: Tensor, settings: Settings = Settings()) -> Tensor:
    """The image with its detections.

    Args:
        predictor: a detector.
        image: ``[3, H, W]`` uint8.
        settings: the score threshold counts.

    Returns:
        ``[3, H', W']`` uint8.
    """
    detected: Detections = _checked(predictor, "detection").predict(image, min_score=settings.min_score)
    large, factor = _enlarged(image)
    masks = None if detected.masks is None or factor != 1 else detected.masks
    return draw_detections(large, detected.boxes * factor, detected.labels, detected.scores, masks, predictor.classes)


def segmentation_picture(predictor: Predictor, image: Tensor, settings: Settings = Settings()) -> Tensor:
    """The image beside its segmentation, arguments as in :func:`detection_picture`."""
    large, _ = _enlarged(image)
    labels: SegmentationMap = _checked(predictor, "segmentation").predict(image)
    drawn = predictor.task.draw(large, labels, predictor.classes)
    return contact_sheet([large, drawn], 2, ["image", "segmentation"], cell=max(large.shape[1:]))


def offsets_picture(predictor: Predictor, image: Tensor, settings: Settings = Settings()) -> Tensor:
    """What single units read: learnt sampling points above, those of ordinary convolutions below, the offsets last.

    Figure 6 of the paper, the original's ``deform_conv_demo``.

    Args:
        predictor: a detector or segmentation model with deformable layers.
        image: ``[3, H, W]`` uint8.
        settings: which units and which layer.

    Raises:
        ValueError: no such layer, or a model without deformable layers.
    """
    seen = resize_image(image, *predictor.size)[0]
    observation = observe(predictor, seen, min_score=settings.min_score)
    chain = _chain(observation.layers, min(seen.shape[1:]), settings.layer)
    scale = seen.shape[2] / image.shape[2]
    if settings.points is None:
        units = _units(predictor, observation)
    else:
        units = [(f"({x:g}, {y:g})", (x * scale, y * scale)) for x, y in settings.points]
    large, factor = _enlarged(seen)
    pictures, captions = [], []
    for kind, layers in (("learnt", chain), ("ordinary", [layer.without_offsets() for layer in chain])):
        for name, point in units:
            points = sampling_points(layers, point, levels=LEVELS)
            pictures.append(draw_sampling_points(large, points.enlarged(factor)))
            captions.append(f"{name}, {kind}: dilation {_dilation_at(layers[-1], point):.2f}")
    pictures.append(offset_heatmap(large, chain[-1].enlarged(factor)))
    captions.append(f"length of the offsets, {chain[-1].name}")
    return contact_sheet(pictures, len(units), captions, cell=max(large.shape[1:]))


def roi_parts_picture(predictor: Predictor, image: Tensor, settings: Settings = Settings()) -> Tensor:
    """The regions of the best detections and where deformable RoI pooling moves their parts.

    Figure 7 of the paper, the original's ``deform_psroi_demo``; arguments as in :func:`offsets_picture`.

    Raises:
        ValueError: a model without deformable RoI pooling.
    """
    seen = resize_image(image, *_checked(predictor, "detection").size)[0]
    observation = observe(predictor, seen, min_score=settings.min_score, needs_layers=False)
    if not observation.rois:
        raise ValueError(
            "model: expected a detector with deformable RoI pooling, got one without; `dcn demo roi-parts` alone shows "
            f"the model {DETECTOR} that comes with the package"
        )
    detections = observation.detections
    assert detections is not None
    pictures, captions = [], []
    for index in range(min(_MOST_PARTS, len(detections))):
        label = int(detections.labels[index])
        parts = chosen_parts(observation, detections.boxes[index], label)
        if parts is not None:
            pictures.append(_close_up(seen, *parts))
            captions.append(f"{predictor.classes[label]} {float(detections.scores[index]):.2f}")
    if not pictures:
        pictures, captions = [_enlarged(seen)[0]], [f"no detection with a score of {settings.min_score:g} or more"]
    return contact_sheet(pictures, min(2, len(pictures)), captions, cell=SIDE)


def _close_up(image: Tensor, region: Tensor, before: Tensor, after: Tensor, weights: Tensor | None) -> Tensor:
    """A region and its parts with some of the image around them, enlarged."""
    limits = torch.tensor([image.shape[2], image.shape[1]])
    margin = (region[2:] - region[:2]).clamp(min=16) * _MARGIN
    start = torch.minimum(region[:2], after[:, :2].amin(0)) - margin
    end = torch.maximum(region[2:], after[:, 2:].amax(0)) + margin
    x1, y1 = start.floor().long().clamp(min=0).tolist()
    x2, y2 = torch.minimum(end.ceil().long(), limits).tolist()
    large, factor = _enlarged(image[:, y1:y2, x1:x2].contiguous())
    corner = torch.tensor([x1, y1, x1, y1])
    return draw_parts(large, *((boxes_ - corner) * factor for boxes_ in (region, before, after)), weights=weights)


@dataclass(frozen=True)
class Show:
    """One of the demos.

    Attributes:
        model: the shipped model that it shows by itself.
        picture: draws one image.
    """

    model: str
    picture: Callable[[Predictor, Tensor, Settings], Tensor]


SHOWS = {
    "detection": Show(DETECTOR, detection_picture),
    "segmentation": Show(SEGMENTER, segmentation_picture),
    "offsets": Show(DETECTOR, offsets_picture),
    "roi-parts": Show(DETECTOR, roi_parts_picture),
}


def show(
    name: str,
    source: StrPath | Predictor | None = None,
    images: Sequence[str] = (),
    output: StrPath | None = None,
    *,
    settings: Settings = Settings(),
    device: str | None = None,
    changes: Sequence[str] = (),
) -> list[Path]:
    """Write the pictures of a demo, one for each image.

    Args:
        name: of :data:`SHOWS`.
        source: a run folder, a weights file, a name of ``dcn models``, or a predictor; ``None``: a model that comes
            with the package.
        images: files, folders and patterns; none: generated images.
        output: folder; ``None``: ``demos/<name>``.
        settings: see :class:`Settings`.
        device: ``"cpu"``, ``"cuda"``, ...
        changes: ``key=value`` words as of ``dcn predict``.

    Returns:
        The pictures.

    Raises:
        ValueError: no such image, a model of another task, or without what the demo shows.
    """
    chosen = SHOWS[name]
    folder = OutputFolder(Path("demos", name) if output is None else fspath(output))
    if isinstance(source, Predictor):
        predictor = source
    else:
        predictor = open_predictor(chosen.model if source is None else source, None, changes, device=device)
    shipped = source if isinstance(source, str) and source in shipped_models() else chosen.model
    named = named_images(images, shipped)
    stems = stems_of([Path(f"{stem}.jpg") for stem, _ in named])
    folder.check(f"{stem}.jpg" for stem in stems)
    written = []
    for stem, (_, image) in zip(stems, named, strict=True):
        picture = chosen.picture(predictor, image, settings)
        written.append(folder.write(f"{stem}.jpg", partial(_write, picture)))
    return written


def _write(picture: Tensor, path: Path) -> None:
    write_image(path, picture)


def _checked(predictor: Predictor, task: str) -> Predictor:
    if predictor.task.name != task:
        raise ValueError(f"model: expected a {task} model, got a {predictor.task.name} model")
    return predictor


def _enlarged(image: Tensor) -> tuple[Tensor, float]:
    """The image with its longer side at :data:`SIDE` or more, and the factor."""
    longer = max(image.shape[1:])
    if longer >= SIDE:
        return image, 1.0
    large = resize_image(image, SIDE, SIDE)[0]
    return large, large.shape[2] / image.shape[2]


def _chain(layers: Sequence[LayerOffsets], shorter: int, name: str | None) -> list[LayerOffsets]:
    """The layers up to the one that is shown."""
    names = [layer.name for layer in layers]
    if name is not None:
        if name not in names:
            raise ValueError(f"layer: expected one of {', '.join(names)}, got {name!r}")
        return list(layers[: names.index(name) + 1])
    fine = [i for i, layer in enumerate(layers) if max(layer.output_grid.stride) * _CELLS <= shorter]
    return list(layers[: fine[-1] + 1]) if fine else list(layers[:1])


def _units(predictor: Predictor, observation: Observation) -> list[tuple[str, Point]]:
    """Where the units are that are shown, in pixels of the image as the model saw it."""
    detections = observation.detections
    if detections is None:
        return _class_centers(predictor.predict(observation.picture, resize=None), predictor.classes)
    units = [("background", _background(detections.boxes, observation.picture.shape[1:]))]
    order = torch.argsort(boxes.areas(detections.boxes)).tolist()
    kinds = {order[0]: "small ", order[-1]: "large "} if len(order) > 1 else dict.fromkeys(order, "")
    for index, kind in kinds.items():
        units.append((kind + predictor.classes[int(detections.labels[index])], _center(detections.boxes[index])))
    return units


def _center(box: Tensor) -> Point:
    x1, y1, x2, y2 = box.tolist()
    return (x1 + x2) / 2, (y1 + y2) / 2


def _background(around: Tensor, size: Sequence[int]) -> Point:
    """The point of a coarse grid that is furthest from all boxes and the border."""
    height, width = size
    y, x = torch.meshgrid(torch.linspace(0.1, 0.9, 17) * height, torch.linspace(0.1, 0.9, 17) * width, indexing="ij")
    points = torch.stack((x.flatten(), y.flatten()), 1)
    gaps = torch.maximum(around[None, :, :2] - points[:, None], points[:, None] - around[None, :, 2:]).clamp(min=0)
    free = gaps.norm(dim=2).amin(1) if len(around) else torch.full((len(points),), float("inf"))
    border = torch.minimum(points, torch.tensor([width, height]) - points).amin(1)
    best = int(torch.minimum(free, border).argmax())
    return float(points[best, 0]), float(points[best, 1])


def _class_centers(predicted: Any, classes: Sequence[str]) -> list[tuple[str, Point]]:
    """The pixel nearest to the middle of each of the three most frequent classes."""
    labels = predicted.labels
    counts = torch.bincount(labels.flatten(), minlength=len(classes))
    units = []
    for label in counts.argsort(descending=True)[:3].tolist():
        if counts[label]:
            pixels = (labels == label).nonzero().float()
            y, x = pixels[(pixels - pixels.mean(0)).norm(dim=1).argmin()].tolist()
            units.append((classes[label], (x + 0.5, y + 0.5)))
    return units


def _dilation_at(layer: LayerOffsets, point: Point) -> float:
    """Effective dilation of the unit nearest to a point."""
    size = torch.tensor(layer.output_grid.size)
    position = layer.output_grid.from_image(torch.tensor([point[1], point[0]]) - 0.5).round().long()
    y, x = torch.minimum(position.clamp(min=0), size - 1).tolist()
    offset = layer.offset[:1].flatten(0, 2)[None, :, y : y + 1, x : x + 1]
    return float(effective_dilation(offset, layer.kernel_size, layer.dilation))
