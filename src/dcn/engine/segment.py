"""Networks for label maps at work: several scales, mirrored, in windows; over a data set, and on single images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dcn.engine.distributed import World
from dcn.engine.predict import Image, Resize, open_image, wanted_size
from dcn.engine.train import autocast
from dcn.structures import Sample, SegmentationMap
from dcn.tta import TTA, WINDOW_GRID

M = TypeVar("M", bound="MapMetric")


class Network(Protocol):
    """What is needed of a network for label maps, an ``nn.Module``."""

    classes: tuple[str, ...]
    test_size: tuple[int, int]
    training: bool

    @property
    def preprocess(self) -> Callable[..., Any]:
        """``preprocess([image]).pixels`` is the normalised batch ``[1, 3, H, W]``."""

    def scores(self, pixels: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to logits ``[N, C, H, W]``."""

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode."""

    def to(self, device: torch.device) -> Any:
        """Move the parameters."""


class MapMetric(Protocol):
    """What :func:`evaluate_maps` needs of a metric; see `dcn.metrics.MeanIoU`."""

    def update(self, predictions: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
        """Take in label maps ``[H, W]`` of equal sizes."""

    def compute(self) -> dict[str, float]:
        """The figures."""

    def merge(self: M, other: M) -> None:
        """Take in what another process has seen."""


def segment(network: Network, image: Tensor, config: TTA) -> Tensor:
    """The class of every pixel.

    Args:
        network: in evaluation mode.
        image: ``[3, H, W]`` uint8 on the network's device.
        config: scales, mirroring and windows.

    Returns:
        ``[H, W]`` int64 on the same device. Beside it and the image, memory is that of one window.
    """
    height, width = image.shape[1:]
    window = config.window or (height, width)
    labels = torch.empty(height, width, dtype=torch.int64, device=image.device)
    for top, bottom, first_row, last_row in spans(height, window[0], config.overlap):
        for left, right, first_column, last_column in spans(width, window[1], config.overlap):
            found = _scores(network, image[:, top:bottom, left:right], config).argmax(0)
            own = found[first_row - top : last_row - top, first_column - left : last_column - left]
            labels[first_row:last_row, first_column:last_column] = own
    return labels


def spans(length: int, window: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Windows along one side, and the part of each that counts.

    Args:
        length: of the side.
        window: of a window; the last one may be up to 15 pixels longer.
        overlap: least number of pixels that neighbours share.

    Returns:
        ``(start, stop, first, last)``: starts are multiples of 16, and ``first .. last`` meet halfway in the overlaps.
    """
    if window >= length:
        return [(0, length, 0, length)]
    step = (window - overlap) // WINDOW_GRID * WINDOW_GRID
    final = (length - window) // WINDOW_GRID * WINDOW_GRID
    starts = [*range(0, final, step), final]
    stops = [*(start + window for start in starts[:-1]), length]
    borders = [0, *((stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)), length]
    return list(zip(starts, stops, borders, borders[1:], strict=False))


def _scores(network: Network, image: Tensor, config: TTA) -> Tensor:
    """Logits ``[C, h, w]``, or with several views the sum of their probabilities."""
    pixels = network.preprocess([image]).pixels
    if not config.scales and not config.flip:
        return network.scores(pixels)[0]
    size = (pixels.shape[2], pixels.shape[3])
    total: Tensor | None = None
    for scale in config.scales or (1.0,):
        if isinstance(scale, tuple):
            raise ValueError(f"scales: expected factors such as 0.75 for segmentation, got {list(scale)}")
        target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        seen = _resized(pixels, target)
        for mirrored in (False, True) if config.flip else (False,):
            scores = network.scores(seen.flip(3) if mirrored else seen).float().softmax(1)
            shares = _resized(scores.flip(3) if mirrored else scores, size)
            total = shares if total is None else total.add_(shares)
    assert total is not None
    return total[0]


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def segment_samples(
    network: Network,
    batches: Iterable[list[Sample]],
    device: torch.device,
    config: TTA,
    amp: str = "off",
) -> Iterator[tuple[SegmentationMap, SegmentationMap]]:
    """The map of every sample, on the CPU at the size of the sample's image, with its annotation.

    Args:
        network: set to evaluation mode, and back to the mode it was in at the end.
        batches: samples whose image is resized, and whose target is as annotated.
        device: where the network is.
        config: how it looks at an image.
        amp: ``off``, ``bf16`` or ``fp16``.
    """
    was_training = network.training
    network.train(False)
    try:
        for sample in (sample for batch in batches for sample in batch):
            target = _map_target(sample)
            with torch.no_grad(), autocast(amp, device):
                labels = segment(network, sample.image.to(device, non_blocking=True), config)
            yield SegmentationMap(labels.cpu(), target.image_id), target
    finally:
        network.train(was_training)


def comparable(found: SegmentationMap, target: SegmentationMap, compare_at: str) -> tuple[Tensor, Tensor]:
    """Prediction and annotation ``[H, W]`` at the one size that the protocol compares."""
    if compare_at == "annotation":
        return found.resized((target.labels.shape[0], target.labels.shape[1])).labels, target.labels
    return found.labels, target.resized((found.labels.shape[0], found.labels.shape[1])).labels


def evaluate_maps(
    pairs: Iterable[tuple[SegmentationMap, SegmentationMap]], metric: M, world: World, compare_at: str
) -> dict[str, float]:
    """Judge what :func:`segment_samples` gives; with several processes the figures come back in the first one."""
    for found, target in pairs:
        prediction, annotation = comparable(found, target, compare_at)
        metric.update([prediction], [annotation])
    gathered = world.gather(metric)
    if not world.is_main:
        return {}
    for other in gathered[1:]:
        metric.merge(other)
    return metric.compute()


def _map_target(sample: Sample) -> SegmentationMap:
    if not isinstance(sample.target, SegmentationMap):
        raise ValueError(f"target: expected label maps to judge by, got {type(sample.target).__name__}")
    return sample.target


class Segmenter:
    """A network for label maps, ready to predict.

    Args:
        network: it is moved to ``device`` and set to evaluation mode.
        device: where it computes.
        read: ``read(path)`` gives ``[3, H, W]`` uint8 RGB.
        resize: ``resize(image, shorter, longer)`` gives the resized image.

    Attributes:
        network: the network.
        classes: names of the labels.
        device: where it computes.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device,
        read: Callable[[Path], Tensor],
        resize: Callable[[Tensor, int, int], Tensor],
    ) -> None:
        network.to(device)
        network.train(False)
        self.network, self.device, self.classes = network, device, network.classes
        self._read, self._resize = read, resize

    @overload
    def predict(self, images: Image, resize: Resize = "default", config: TTA | None = None) -> SegmentationMap: ...

    @overload
    def predict(
        self, images: list[Any] | tuple[Any, ...], resize: Resize = "default", config: TTA | None = None
    ) -> list[SegmentationMap]: ...

    def predict(
        self, images: Image | Sequence[Image], resize: Resize = "default", config: TTA | None = None
    ) -> SegmentationMap | list[SegmentationMap]:
        """Give every pixel a class.

        Args:
            images: one image or a list: paths, RGB arrays ``[H, W, 3]`` or tensors ``[3, H, W]``, uint8.
            resize: ``"default"``: the network's test size; ``(shorter, longer)``; ``None``: as the image is.
            config: scales, mirroring, windows; ``None``: one look at the whole image.

        Returns:
            Label maps on the CPU at the size of the image given (nearest where it was resized); a list for a list.

        Raises:
            ValueError: an image of another shape or type, an unreadable file, or a size that makes no sense.
        """
        if not isinstance(images, str | Path | np.ndarray | Tensor):
            return [self._predict(self.open(image), resize, config or TTA()) for image in images]
        return self._predict(self.open(images), resize, config or TTA())

    def open(self, image: Image) -> Tensor:
        """Any accepted image as ``[3, H, W]`` uint8 on the CPU."""
        return open_image(image, self._read)

    def _predict(self, image: Tensor, resize: Resize, config: TTA) -> SegmentationMap:
        size = wanted_size(resize, self.network.test_size)
        seen = image if size is None else self._resize(image, *size)
        with torch.no_grad():
            labels = segment(self.network, seen.to(self.device), config).cpu()
        return SegmentationMap(labels).resized((image.shape[1], image.shape[2]))
