"""The pictures of the demo's page: detections of both models, and where the deformable layers sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dcn import boxes
from dcn.data.dataset import Dataset
from dcn.data.geometry import resize_image
from dcn.demo.showcase import roi_parts_picture
from dcn.runs.predictor import Predictor
from dcn.structures import Target
from dcn.vis import (
    LayerOffsets,
    SamplingPoints,
    contact_sheet,
    draw_detections,
    draw_sampling_points,
    offset_heatmap,
    offset_statistics,
    record_offsets,
    sampling_points,
)

Panel = tuple[Tensor, str, str]
"""A picture, what it shows for those who cannot see it, and its caption."""

_SIDE = 384  # drawn pictures have this longer side: names and points can be read
_SCORE = 0.5  # detections with less are not drawn


@dataclass(frozen=True)
class LayerMotion:
    """How far one deformable layer moves its taps, over several images.

    Attributes:
        layer: its name.
        stride: image pixels from one unit of its map to the next.
        mean: mean length of the offsets in units of the map.
        mean_pixels: the same in image pixels.
        largest: the greatest length in units of the map.
    """

    layer: str
    stride: int
    mean: float
    mean_pixels: float
    largest: float


def _annotation(dataset: Dataset, index: int) -> tuple[Tensor, Target]:
    sample = dataset[index]
    assert isinstance(sample.target, Target)
    return sample.image, sample.target


def _enlarged(image: Tensor) -> Tensor:
    """The image with its longer side at `_SIDE`."""
    return resize_image(image, _SIDE, _SIDE)[0]


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def detections(dataset: Dataset, index: int, predictors: dict[str, Predictor]) -> Panel:
    """One held-out image three times: annotated, and with the detections of each model."""
    image, target = _annotation(dataset, index)
    large = _enlarged(image)
    truth = boxes.scale(target.boxes, _size(image), _size(large))
    pictures = [draw_detections(large, truth, target.labels, classes=dataset.classes)]
    names, counts = ["annotated"], [f"{len(target)} annotated objects"]
    for name, predictor in predictors.items():
        detected = predictor.predict(image, min_score=_SCORE)
        placed = boxes.scale(detected.boxes, _size(image), _size(large))
        pictures.append(draw_detections(large, placed, detected.labels, detected.scores, classes=dataset.classes))
        names.append(name)
        counts.append(f"{len(detected)} detected by the {name} model")
    path = dataset.image_path(index)
    name = path.stem if path is not None else str(index)
    return contact_sheet(pictures, len(pictures), names, cell=_SIDE), f"image {name}: {', '.join(counts)}", name


def largest_objects(dataset: Dataset, count: int) -> list[int]:
    """Held-out images with the largest objects, whose sampling points can be told apart."""
    heights = []
    for index in range(len(dataset)):
        target = _annotation(dataset, index)[1]
        heights.append(float(boxes.areas(target.boxes).max()) if len(target) else 0.0)
    return sorted(range(len(dataset)), key=lambda index: -heights[index])[:count]


def sampling(dataset: Dataset, index: int, predictor: Predictor, test_size: tuple[int, int]) -> Panel:
    """The sampling points of one unit at the centre of the largest object, stage by stage: learnt ones above."""
    image, target = _annotation(dataset, index)
    seen = resize_image(image, *test_size)[0]
    chosen = int(boxes.areas(target.boxes).argmax())
    x1, y1, x2, y2 = boxes.scale(target.boxes, _size(image), _size(seen))[chosen].tolist()
    stages = _stages(record_offsets(predictor, seen))
    pictures, captions = [], []
    for kind, learnt in (("learnt", True), ("grid", False)):
        for stage, layers in stages.items():
            traced = layers if learnt else [layer.without_offsets() for layer in layers]
            points = sampling_points(traced, ((x1 + x2) / 2, (y1 + y2) / 2), levels=len(layers))
            pictures.append(_draw_points(seen, points))
            captions.append(f"{stage}, {kind}")
    name = dataset.classes[int(target.labels[chosen])]
    alt = f"sampling points at the centre of a {name} in the stages {', '.join(stages)}, learnt and regular"
    return contact_sheet(pictures, len(stages), captions, cell=_SIDE), alt, name


def heat(dataset: Dataset, index: int, predictor: Predictor, test_size: tuple[int, int]) -> Panel:
    """How far the last layer of each stage moves its taps, location by location."""
    seen = resize_image(_annotation(dataset, index)[0], *test_size)[0]
    stages = _stages(record_offsets(predictor, seen))
    factor = _SIDE / max(_size(seen))
    pictures = [offset_heatmap(_enlarged(seen), layers[-1].enlarged(factor)) for layers in stages.values()]
    alt = f"length of the offsets as colour over image {index}, for the last layer of {', '.join(stages)}"
    return contact_sheet(pictures, len(pictures), list(stages), cell=_SIDE), alt, ""


def parts(dataset: Dataset, index: int, predictor: Predictor) -> Panel:
    """Where deformable RoI pooling moves the parts of the best detections of one image."""
    picture = roi_parts_picture(predictor, _annotation(dataset, index)[0])
    return picture, f"regions of the detections in image {index}, and their parts where they are pooled", ""


def motion(dataset: Dataset, predictor: Predictor, test_size: tuple[int, int]) -> list[LayerMotion]:
    """The offsets of every deformable layer over the images of a data set."""
    images = (_annotation(dataset, index)[0] for index in range(len(dataset)))
    recorded = [record_offsets(predictor, resize_image(image, *test_size)[0]) for image in images]
    rows = []
    for calls in zip(*recorded, strict=True):
        statistics = offset_statistics(calls)
        mean, pixels = (
            sum(values) / len(statistics)
            for values in ([f.mean for f in statistics], [f.mean_pixels for f in statistics])
        )
        stride = round(calls[0].input_grid.stride[0])
        rows.append(LayerMotion(calls[0].name, stride, mean, pixels, max(f.largest for f in statistics)))
    return rows


def _stages(layers: Sequence[LayerOffsets]) -> dict[str, list[LayerOffsets]]:
    """The layers of each stage under the papers' names: ``backbone.layer2.0.conv2`` belongs to c3."""
    stages: dict[str, list[LayerOffsets]] = {}
    for layer in layers:
        number = int(layer.name.split(".")[1].removeprefix("layer"))
        stages.setdefault(f"c{number + 1}", []).append(layer)
    return stages


def _draw_points(seen: Tensor, points: SamplingPoints) -> Tensor:
    """Points traced in a small image, drawn in an enlarged one."""
    large = _enlarged(seen)
    return draw_sampling_points(large, points.enlarged(large.shape[2] / seen.shape[2]))
