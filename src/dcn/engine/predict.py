"""A detector made easy to use: paths or arrays in, detections in their own pixels out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcn.structures import Detections

Image = str | Path | NDArray[np.uint8] | Tensor
"""A path, an RGB array ``[H, W, 3]`` uint8, or a tensor ``[3, H, W]`` uint8."""

Resize = Literal["default"] | tuple[int, int] | None
"""``"default"``: the network's test size; ``(shorter side, largest longer side)``; ``None``: as the image is."""


class Predictor:
    """A network ready to predict.

    Args:
        model: a detector; it is moved to ``device`` and set to evaluation mode. With ``model.test_size = None`` it
            wants images as they are and resizes them itself (:class:`dcn.models.detection.TTADetector`).
        device: where it computes.
        read: ``read(path)`` gives ``[3, H, W]`` uint8 RGB.
        resize: ``resize(image, shorter, longer)`` gives the resized image.

    Attributes:
        model: the network.
        classes: names of the labels.
        device: where it computes.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        read: Callable[[Path], Tensor],
        resize: Callable[[Tensor, int, int], Tensor],
    ) -> None:
        self.model = model.to(device).eval()
        self.device = device
        self.classes: tuple[str, ...] = tuple(model.classes)  # type: ignore[arg-type]  # nn.Module attributes are untyped
        self._read, self._resize = read, resize

    @overload
    def predict(
        self, images: Image, resize: Resize = "default", score_threshold: float | None = None, batch_size: int = 1
    ) -> Detections: ...

    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        resize: Resize = "default",
        score_threshold: float | None = None,
        batch_size: int = 1,
    ) -> list[Detections]: ...

    def predict(
        self,
        images: Image | Sequence[Image],
        resize: Resize = "default",
        score_threshold: float | None = None,
        batch_size: int = 1,
    ) -> Detections | list[Detections]:
        """Find objects.

        Args:
            images: one image or a list, see :data:`Image`.
            resize: see :data:`Resize`.
            score_threshold: only detections of this score or more, in ``[0, 1]``; ``None``: the network's own.
            batch_size: images of one forward pass; the results do not depend on it.

        Returns:
            Detections on the CPU in pixels of the image given, best first; a list for a list.

        Raises:
            ValueError: an image of another shape or type, an unreadable file, or a size that makes no sense.
        """
        if isinstance(images, str | Path | np.ndarray | Tensor):
            return self._predict_batch([self.open(images)], resize, score_threshold)[0]
        if batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
        found: list[Detections] = []
        for start in range(0, len(images), batch_size):
            batch = [self.open(image) for image in images[start : start + batch_size]]
            found += self._predict_batch(batch, resize, score_threshold)
        return found

    def open(self, image: Image) -> Tensor:
        """Any accepted image as ``[3, H, W]`` uint8 on the CPU."""
        return open_image(image, self._read)

    def _predict_batch(self, images: list[Tensor], resize: Resize, score_threshold: float | None) -> list[Detections]:
        own: Any = self.model.test_size
        size = wanted_size(resize, own)
        seen = images if size is None else [self._resize(image, *size) for image in images]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        with torch.no_grad(), self._threshold(score_threshold):
            found = self.model([image.to(self.device) for image in seen], output_sizes=sizes)
        found = [detections.to("cpu") for detections in found]
        if score_threshold is None:
            return found
        return [detections.select(detections.scores >= score_threshold) for detections in found]

    @contextmanager
    def _threshold(self, wanted: float | None) -> Iterator[None]:
        """The network drops what is below its own threshold; a lower one must be known to it."""
        if wanted is not None and not 0 <= wanted <= 1:
            raise ValueError(f"score_threshold: expected a number in [0, 1], got {wanted}")
        own = float(self.model.score_threshold)  # type: ignore[arg-type]  # nn.Module attributes are untyped
        self.model.score_threshold = own if wanted is None else min(own, wanted)  # type: ignore[assignment]
        try:
            yield
        finally:
            self.model.score_threshold = own  # type: ignore[assignment]


def open_image(image: Image, read: Callable[[Path], Tensor]) -> Tensor:
    """Any accepted image as ``[3, H, W]`` uint8 on the CPU; ``read`` reads a file to that.

    Raises:
        ValueError: an image of another shape or type, or an unreadable file.
    """
    if isinstance(image, str | Path):
        return read(Path(image))
    if isinstance(image, np.ndarray):
        _check(image.ndim == 3 and image.shape[-1] == 3, image, "an RGB array [H, W, 3]")
        tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()
    elif isinstance(image, Tensor):
        _check(image.ndim == 3 and image.shape[0] == 3, image, "an RGB tensor [3, H, W]")
        tensor = image.cpu()
    else:
        raise ValueError(f"images: expected paths, arrays or tensors, got {type(image).__name__}")
    _check(tensor.dtype == torch.uint8, image, "values of type uint8 in 0..255")
    return tensor


def wanted_size(resize: Resize, own: tuple[int, int] | None) -> tuple[int, int] | None:
    """``(shorter side, largest longer side)`` that a :data:`Resize` means; ``None``: as the image is.

    Args:
        resize: what the caller asks for.
        own: the network's test size; ``None``: it resizes images itself.

    Raises:
        ValueError: it makes no sense, or the network resizes images itself.
    """
    if own is None and resize != "default":
        raise ValueError(f"resize: this network resizes images itself, to its scales; got {resize!r}")
    if resize is None or own is None:
        return None
    if resize == "default":
        return (int(own[0]), int(own[1]))
    if isinstance(resize, str) or len(resize) != 2 or min(resize) < 1 or resize[0] > resize[1]:
        raise ValueError(f"resize: expected 'default', None or (shorter, longer) such as (800, 1333), got {resize!r}")
    return resize


def _check(fits: bool, image: NDArray[np.uint8] | Tensor, wanted: str) -> None:
    if not fits:
        raise ValueError(f"images: expected {wanted}, got shape {list(image.shape)} of {image.dtype}")
