"""What a prediction looks at: files, folders, URLs, videos, cameras and lists, one image after another."""

from __future__ import annotations

import logging
import re
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from dcn.extras import require
from dcn.formats.file_names import safe_name
from dcn.formats.video import VideoFrame, camera_device, read_camera, read_video
from dcn.runs.images import open_image
from dcn.suggest import counted

LOGGER = logging.getLogger("dcn")


@dataclass(frozen=True)
class Frames:
    """Which frames of videos and cameras are taken.

    Attributes:
        every: each so many-th frame, from the first on.
        most: so many of each video or camera; ``None``: all.

    Raises:
        ValueError: a number below 1.
    """

    every: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every: expected 1 or more, got {self.every}")
        if self.most is not None and self.most < 1:
            raise ValueError(f"frames: expected 1 or more, got {self.most}")

    def check(self, sources: Sequence[Source]) -> None:
        """Refuse a choice of frames where there are none; a list may name a video later.

        Raises:
            ValueError: all sources are single images.
        """
        if self != Frames() and sources and all(isinstance(source, ImageSource) for source in sources):
            given = [f"every={self.every}"] if self.every != 1 else []
            given += [] if self.most is None else [f"frames={self.most}"]
            names = [source.name for source in sources]
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise ValueError(
                f"every, frames: expected a video or camera to take frames of, got {' and '.join(given)} with "
                f"{counted(len(names), 'image')} ({shown}); leave {'them' if len(given) > 1 else 'it'} out"
            )


@dataclass(frozen=True)
class InputImage:
    """One image, and where it comes from.

    Attributes:
        image: ``[3, H, W]`` uint8, RGB.
        source: the file, URL, video or camera.
        frame: the number of a frame of a video or camera, from 0.
        time: of such a frame, in seconds since the first.
        rate: frames per second that are taken of such a source.
    """

    image: Tensor
    source: Source
    frame: int | None = None
    time: float | None = None
    rate: Fraction | None = None


class Source:
    """Where images come from.

    Args:
        name: as the user wrote it.
        stem: the name of files about it, without ending; none for a list.

    Attributes:
        path: the file, where it is one.
        moving: whether its images are frames.
        live: whether it has no end of its own.
    """

    path: Path | None = None
    moving = False
    live = False

    def __init__(self, name: str, stem: str) -> None:
        self.name, self.stem = name, stem

    def check(self) -> None:
        """Say what is missing before the first image is read.

        Raises:
            ValueError: a package, or the camera.
        """

    def images(self, inputs: Inputs) -> Iterator[InputImage]:
        """The images; what cannot be read is reported to ``inputs`` and ends this source alone."""
        try:
            for image in self.read(inputs.stopped):
                yield image
                if inputs.stopped():
                    return
        except (ValueError, OSError) as error:
            inputs.report(error, self.moving)

    def read(self, stop: Callable[[], bool]) -> Iterator[InputImage]:
        """The images.

        Args:
            stop: asked by a source that waits.

        Raises:
            ValueError: one cannot be read.
        """
        raise NotImplementedError


class ImageSource(Source):
    """An image file, or the URL of one.

    Args:
        place: see :func:`dcn.runs.images.open_image`.
    """

    def __init__(self, place: str | Path) -> None:
        if isinstance(place, Path):
            super().__init__(str(place), place.stem)
            self.path = place
        else:
            super().__init__(place, _stem_of(place))
        self._place = place

    def read(self, stop: Callable[[], bool]) -> Iterator[InputImage]:
        """One image."""
        yield InputImage(open_image(self._place), self)


class VideoSource(Source):
    """A video file."""

    moving = True

    def __init__(self, path: Path, frames: Frames) -> None:
        super().__init__(str(path), path.stem)
        self.path = self._file = path
        self._frames = frames

    def check(self) -> None:
        """The package that decodes videos."""
        require("av")

    def read(self, stop: Callable[[], bool]) -> Iterator[InputImage]:
        """The frames."""
        return _taken(self, read_video(self._file, every=self._frames.every), self._frames)


class CameraSource(Source):
    """A camera, by its number or its device file."""

    moving = live = True

    def __init__(self, camera: str, frames: Frames) -> None:
        name = f"camera{camera}" if camera.isdigit() else camera
        super().__init__(name, Path(name).name)
        self._camera, self._frames = camera, frames

    def check(self) -> None:
        """The package, and the camera."""
        require("av")
        camera_device(self._camera)

    def read(self, stop: Callable[[], bool]) -> Iterator[InputImage]:
        """The frames, until ``stop``."""
        return _taken(self, read_camera(self._camera, every=self._frames.every, stop=stop), self._frames)


def _taken(source: Source, frames: Generator[VideoFrame, None, None], taken: Frames) -> Iterator[InputImage]:
    with closing(frames):
        for one in islice(frames, taken.most):
            yield InputImage(one.image, source, one.index, one.time, one.rate / taken.every)


class Items(Source):
    """Words and images that come one after another, such as the lines of standard input.

    Args:
        items: words of :func:`dcn.runs.find_inputs.find_inputs` and images.
        sources: the sources that a word means.
    """

    def __init__(self, items: Iterable[Any], sources: Callable[[Any], Sequence[Source]]) -> None:
        super().__init__("-", "")
        self._items, self._sources = items, sources

    def images(self, inputs: Inputs) -> Iterator[InputImage]:
        """The images of each item as soon as it is there."""
        for number, item in enumerate(self._items):
            if inputs.stopped():
                return
            if not isinstance(item, str | PathLike | int):
                yield InputImage(open_image(item), Source(f"image {number}", f"image_{number}"))
                continue
            try:
                sources = self._sources(item)
            except (ValueError, OSError) as error:
                inputs.report(error)
                continue
            for source in sources:
                yield from source.images(inputs)


class Inputs:
    """The images of several sources, one after another.

    Args:
        sources: in their order.

    Attributes:
        sources: those that are known before the first image.
        skipped: number of those that could not be read, or not to their end, so far.
        skipped_word: what they are: ``"image"``, or ``"input"`` with videos and cameras among them.
        stopped: asked after every image; ``True`` ends the iteration.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self.sources = list(sources)
        self.skipped = 0
        self.skipped_word = "image"
        self.stopped: Callable[[], bool] = bool

    @property
    def live(self) -> bool:
        """Whether a camera is among the sources."""
        return any(source.live for source in self.sources)

    @property
    def total(self) -> int | None:
        """The number of images, where it is known."""
        single = all(isinstance(source, ImageSource) for source in self.sources)
        return len(self.sources) if single else None

    def __iter__(self) -> Iterator[InputImage]:
        for source in self.sources:
            if not self.stopped():
                yield from source.images(self)

    def report(self, error: Exception, moving: bool = False) -> None:
        """Log and count what could not be read, or not to its end."""
        words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        LOGGER.warning("%s" if moving else "skipped: %s", words)
        self.skipped += 1
        if moving:
            self.skipped_word = "input"


def _stem_of(url: str) -> str:
    """A name for files about a URL: its last part, made harmless."""
    last = urllib.parse.unquote(re.split(r"[?#]", url)[0].rstrip("/").rpartition("/")[2])
    return Path(safe_name(last.replace("/", "_"))).stem
