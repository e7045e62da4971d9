"""A model ready to predict, of either task: paths or arrays in, detections or segmentation maps out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dcn.data.geometry import resize_image
from dcn.runs.find_inputs import inputs_of
from dcn.runs.images import is_image, open_image
from dcn.runs.inputs import Frames, InputImage, Inputs, Source
from dcn.runs.tasks import Prediction, task_of
from dcn.runs.view import Size, View
from dcn.tta import TTA

Resize = Literal["default"] | Size | None
"""``"default"``: the model's test size; ``(shorter side, largest longer side)``; ``None``: the image as it is."""


@dataclass(frozen=True)
class Result:
    """The prediction for one image of :meth:`Predictor.stream`.

    Attributes:
        name: the file or URL as it was given, or a name for a camera or an array.
        prediction: as :meth:`Predictor.predict` gives it.
        image: ``[3, H, W]`` uint8, RGB: the image that was read.
        frame: of a video or camera: the number of the frame, from 0.
        time: of such a frame: seconds since the first.
        source: the file, URL, video or camera.
        rate: frames per second that are taken of a video or camera.
    """

    name: str
    prediction: Any
    image: Tensor
    frame: int | None
    time: float | None
    source: Source
    rate: Fraction | None = None


class Predictor:
    """A model ready to predict; what :func:`dcn.load` returns.

    Args:
        model: a detector or a segmentation model; it is moved to ``device`` and set to evaluation mode.
        device: where it computes.
        tta: test-time options.
        size: ``(shorter side, largest longer side)`` to which images are resized; ``None``: the model's test size.

    Attributes:
        model: the model.
        task: the task of the model, see :mod:`dcn.runs.tasks`.
        classes: names of the labels.
        device: where the model computes.
        tta: the test-time options.

    Raises:
        ValueError: test-time options that do not fit the model.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, tta: TTA | None = None, size: Size | None = None
    ) -> None:
        self.task = task_of(model)
        self.classes: tuple[str, ...] = tuple(model.classes)  # type: ignore[arg-type]  # nn.Module attributes are untyped
        self.tta = TTA() if tta is None else tta
        self.task.check_tta(self.tta, self.classes)
        self.model = model.to(device).eval()
        self.device = device
        short, long = size or model.test_size  # type: ignore[misc]  # nn.Module attributes are untyped
        self.size: Size = (int(short), int(long))

    def __repr__(self) -> str:
        return f"Predictor({type(self.model).__name__}, {self.task.name}, {len(self.classes)} classes, {self.device})"

    def predict(
        self,
        images: Any,
        *,
        min_score: float | None = None,
        resize: Resize = "default",
        batch_size: int = 1,
    ) -> Any:
        """Detect the objects, or classify the pixels, of one or several images.

        Args:
            images: a path, a URL, an array, a tensor or a ``PIL.Image``, see
                :func:`dcn.runs.images.open_image`; or a list of these.
            min_score: detectors: only detections with this score or more, in ``[0, 1]``; ``None``: the model's own
                score threshold, ``predictor.model.score_threshold``, mostly 0.05 or less, as metrics need it.
                ``dcn predict`` draws pictures and takes 0.5, ``predictor.task.default_score``.
            resize: see :data:`Resize`.
            batch_size: images of one forward pass; results do not depend on it.

        Returns:
            Detectors: :class:`dcn.structures.Detections`, best first, in pixels of the image given. Segmentation
            models: :class:`dcn.structures.SegmentationMap` of the size of the image given. Both on the CPU; a list for
            a list.

        Raises:
            ValueError: an image of another type, shape or range, an unreadable file, or an option that makes no sense.
        """
        self.check(resize, min_score, batch_size)
        if is_image(images):
            return self._predict([open_image(images)], min_score, resize)[0]
        if not isinstance(images, list | tuple):
            open_image(images)  # says what is expected
        predictions: list[Prediction] = []
        for start in range(0, len(images), batch_size):
            batch = [open_image(image) for image in images[start : start + batch_size]]
            predictions += self._predict(batch, min_score, resize)
        return predictions

    def stream(
        self,
        images: Any,
        *,
        min_score: float | None = None,
        resize: Resize = "default",
        batch_size: int = 1,
        recursive: bool = False,
        every: int = 1,
        frames: int | None = None,
    ) -> Iterator[Result]:
        """Predict on whatever ``dcn predict`` takes, one result after another.

        >>> for result in predictor.stream("clip.mp4", min_score=0.5):
        ...     print(result.frame, result.time, result.prediction.boxes)

        Args:
            images: an image or video file, a folder, a pattern, a URL of an image, the number of a
                camera, ``"-"`` for a list on standard input; an array, a tensor or a ``PIL.Image``; or an iterable of
                these, which is read as it goes.
            min_score: see :meth:`predict`, as the next two.
            resize: likewise.
            batch_size: likewise; frames of a camera do not wait for others.
            recursive: look into the folders below a folder, too.
            every: take each so many-th frame of videos and cameras, from the first on.
            frames: take so many frames of each video or camera; ``None``: all.

        Returns:
            An iterator. What cannot be read is logged as a warning and left out.

        Raises:
            ValueError: a word that names nothing, or an option that makes no sense.
        """
        self.check(resize, min_score, batch_size)
        inputs = inputs_of(images, recursive=recursive, frames=Frames(every, frames))
        return self._stream(inputs, min_score, resize, batch_size)

    def _stream(self, inputs: Inputs, min_score: float | None, resize: Resize, batch_size: int) -> Iterator[Result]:
        for batch in _batches(inputs, batch_size):
            predictions = self._predict([one.image for one in batch], min_score, resize)
            for one, prediction in zip(batch, predictions, strict=True):
                yield Result(one.source.name, prediction, one.image, one.frame, one.time, one.source, one.rate)

    def _predict(self, images: Sequence[Tensor], min_score: float | None, resize: Resize) -> list[Prediction]:
        view = self.view(resize, min_score)
        size = view.size
        resized = images if size is None else [resize_image(image, *size)[0] for image in images]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        predictions = view.run([image.to(self.device) for image in resized], sizes, min_score)
        return [replace(one, classes=self.classes) for one in predictions]

    def check(self, resize: Resize = "default", min_score: float | None = None, batch_size: int = 1) -> None:
        """Say which options of :meth:`predict` do not fit, before an image is read.

        Raises:
            ValueError: an option that makes no sense for this model.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more images of one forward pass, got {batch_size!r}")
        self.view(resize, min_score)

    def view(self, resize: Resize = "default", min_score: float | None = None) -> View:
        """How the model looks at images with these options of :meth:`predict`.

        Raises:
            ValueError: an option that makes no sense for this model.
        """
        self.task.check_score(min_score)
        if resize == "default":
            return self.task.view(self.model, self.tta, self.size)
        if resize is not None and (isinstance(resize, str) or len(resize) != 2 or not 1 <= resize[0] <= resize[1]):
            raise ValueError(
                f"resize: expected 'default', None or (shorter, longer) such as (800, 1333), got {resize!r}"
            )
        return self.task.view(self.model, self.tta, resize)


def _batches(inputs: Iterable[InputImage], size: int) -> Iterator[list[InputImage]]:
    """Batches of images; an image of a camera ends its batch."""
    batch: list[InputImage] = []
    for one in inputs:
        batch.append(one)
        if len(batch) == size or one.source.live:
            yield batch
            batch = []
    if batch:
        yield batch
