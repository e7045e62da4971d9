"""What a prediction looks at: files, folders, addresses, videos, cameras and lists, one image after another."""

from __future__ import annotations

import glob
import logging
import os
import re
import sys
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import islice
from os import PathLike, fsdecode, fspath
from pathlib import Path
from typing import IO, Any, TypeVar

from torch import Tensor

from dcn.extras import require
from dcn.formats.file_names import SUFFIXES, safe_name
from dcn.formats.video import VideoFrame, is_video, read_camera, read_video
from dcn.runs.images import is_address, is_image, open_image

LOGGER = logging.getLogger("dcn")
STANDARD_INPUT = "-"
T = TypeVar("T")
_LONGEST_LINE = 1 << 16  # bytes; the longest path of any system has 32,767 letters
_NUMBER = re.compile(r"\d+")


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


@dataclass(frozen=True)
class InputImage:
    """One image, and where it comes from.

    Attributes:
        image: ``[3, H, W]`` uint8, RGB.
        source: the file, address, video or camera.
        frame: the number of a frame of a video or camera, from 0.
        time: of such a frame, in seconds since the first.
        rate: frames per second of such a source.
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
    """An image file, or the address of one.

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

    def read(self, stop: Callable[[], bool]) -> Iterator[InputImage]:
        """The frames."""
        return _taken(self, read_video(self._file, every=self._frames.every), self._frames.most)


class CameraSource(Source):
    """A camera, by its number or its device file."""

    moving = live = True

    def __init__(self, camera: str, frames: Frames) -> None:
        name = f"camera{camera}" if camera.isdigit() else camera
        super().__init__(name, Path(name).name)
        self._camera, self._frames = camera, frames

    def read(self, stop: Callable[[], bool]) -> Iterator[InputImage]:
        """The frames, until ``stop``."""
        return _taken(self, read_camera(self._camera, every=self._frames.every, stop=stop), self._frames.most)


def _taken(source: Source, frames: Generator[VideoFrame, None, None], most: int | None) -> Iterator[InputImage]:
    with closing(frames):
        for one in islice(frames, most):
            yield InputImage(one.image, source, one.index, one.time, one.rate)


class Items(Source):
    """Words and images that come one after another, such as the lines of standard input.

    Args:
        items: words of :func:`find_inputs` and images.
        sources: the sources that a word means.
    """

    def __init__(self, items: Iterable[Any], sources: Callable[[Any], Sequence[Source]]) -> None:
        super().__init__(STANDARD_INPUT, "")
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
        skipped: number of those that could not be read, so far.
        stopped: asked after every image; ``True`` ends the iteration.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self.sources = list(sources)
        self.skipped = 0
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

    def report(self, error: Exception, partly: bool = False) -> None:
        """Log and count what could not be read."""
        words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        LOGGER.warning("%s" if partly else "skipped: %s", words)
        self.skipped += 1


def inputs_of(images: Any, *, recursive: bool = False, frames: Frames | None = None) -> Inputs:
    """What a caller from Python means: a word of :func:`find_inputs`, an image, or an iterable of both.

    Words that are given alone, or in a list or tuple, are looked up at once; other iterables are read as they go.

    Raises:
        ValueError: as :func:`find_inputs`, or none of these.
    """
    frames = Frames() if frames is None else frames
    if isinstance(images, Inputs):
        return images
    if isinstance(images, str | PathLike | int):
        images = [images]
    if isinstance(images, list | tuple) and all(isinstance(item, str | PathLike | int) for item in images):
        return find_inputs([_word(item) for item in images], recursive=recursive, frames=frames)
    if is_image(images):
        images = [images]
    if not isinstance(images, Iterable):
        raise ValueError(
            "images: expected a path, an address, a camera's number, an array, a tensor, a PIL.Image, or an iterable "
            f"of these, got {type(images).__name__}"
        )
    return Inputs([Items(images, lambda item: _sources_of(_word(item), recursive, frames))])


def _word(item: Any) -> str:
    return str(item) if isinstance(item, int) else fspath(item)


def find_inputs(words: Sequence[str], *, recursive: bool = False, frames: Frames | None = None) -> Inputs:
    """The sources that words mean, in the order given; a file is taken once, however it is spelled.

    Args:
        words: image and video files, folders (the images in them), patterns, http addresses of images, numbers of
            cameras, and ``-``: the lines of standard input, which are paths and addresses.
        recursive: look into the folders below, too; each is visited once, also where links lead back.
        frames: which frames of videos and cameras; ``None``: all.

    Raises:
        ValueError: a word names nothing, or a folder has no images.
        MissingPackageError: a video or camera without the package that reads it.
    """
    frames = Frames() if frames is None else frames
    sources = [source for word in words for source in _sources_of(word, recursive, frames)]
    if any(source.moving for source in sources):
        require("av")
    return Inputs(_once(sources, lambda source: source.path))


def read_files(paths: Iterable[Path]) -> Inputs:
    """Image and video files, as their paths stand; one that is not there is skipped when its turn comes."""
    return Inputs(_once([_source_at(path, Frames()) for path in paths], lambda source: source.path))


def find_images(words: Sequence[str], *, recursive: bool = False) -> list[Path]:
    """Files, and the images in folders and patterns, each once, in the order given.

    Raises:
        ValueError: a word names nothing, or a folder has no images.
    """
    return _once([path for word in words for path in _paths_of(word, recursive)], lambda path: path)


def _sources_of(word: str, recursive: bool, frames: Frames) -> list[Source]:
    """The sources that a word means."""
    if word == STANDARD_INPUT:
        return [Items(_lines(sys.stdin.buffer), lambda line: _sources_at(line, recursive, frames))]
    if is_address(word):
        return [ImageSource(word)]
    if _NUMBER.fullmatch(word) and not os.path.lexists(word):
        return [CameraSource(word, frames)]
    return [_source_at(path, frames) for path in _paths_of(word, recursive)]


def _sources_at(line: str, recursive: bool, frames: Frames) -> list[Source]:
    """The sources that a line of a list means: an address or a path, which is no pattern."""
    if is_address(line):
        return [ImageSource(line)]
    if len(line) >= _LONGEST_LINE:
        raise ValueError(f"images: expected a path on each line, got a line of {_LONGEST_LINE:,} bytes or more")
    path = Path(line)
    if path.is_dir():
        return [ImageSource(file) for file in _images_in(path, recursive, line)]
    if not path.exists():
        raise ValueError(f"images: expected an image, a video or a folder, got nothing at {line!r}")
    return [_source_at(path, frames)]


def _source_at(path: Path, frames: Frames) -> Source:
    if path.is_char_device():
        return CameraSource(str(path), frames)
    if path.exists() and not path.is_file():
        raise ValueError(f"images: expected a file, got a pipe or a device at {str(path)!r}")
    video = path.suffix.lower() not in SUFFIXES and is_video(path)
    return VideoSource(path, frames) if video else ImageSource(path)


def _paths_of(word: str, recursive: bool) -> list[Path]:
    """The files that a path or pattern means."""
    path = Path(word).expanduser()
    if path.is_dir():
        return _images_in(path, recursive, word)
    here = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    here = [path for path in here if not path.is_dir()]
    if not here:
        raise ValueError(f"images: expected an image, a folder or a pattern that matches some, got none at {word!r}")
    return here


def _images_in(folder: Path, recursive: bool, word: str) -> list[Path]:
    folders = _folders_below(folder) if recursive else [folder]
    here = [file for one in folders for file in sorted(one.iterdir()) if _is_image_name(file)]
    if not here:
        hint = "" if recursive or not any(file.is_dir() for file in folder.iterdir()) else "; --recursive looks below"
        raise ValueError(f"images: expected {', '.join(SUFFIXES)} files, got none at {word!r}{hint}")
    return here


def _folders_below(folder: Path) -> Iterator[Path]:
    """A folder and those below it, links too, each once; hidden ones and companions of archives are left out."""
    seen, left = set(), [folder]
    while left:
        one = left.pop()
        try:
            status = one.stat()
            below = sorted((path for path in one.iterdir() if path.is_dir()), reverse=True)
        except OSError as error:
            LOGGER.warning("skipped: %s: %s", one, error.strerror)
            continue
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield one
            left += [path for path in below if not path.name.startswith(".") and path.name != "__MACOSX"]


def _is_image_name(file: Path) -> bool:
    """Names that begin with a dot are of systems and of unfinished files."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _once(items: Iterable[T], path_of: Callable[[T], Path | None]) -> list[T]:
    """Items without those whose file came before, in another spelling too; a link is a file of its own."""
    real = cache(os.path.realpath)
    first: dict[object, T] = {}
    for item in items:
        path = path_of(item)
        first.setdefault(item if path is None else (real(path.parent), path.name), item)
    return list(first.values())


def _stem_of(address: str) -> str:
    """A name for files about an address: its last part, made harmless."""
    last = urllib.parse.unquote(urllib.parse.urlsplit(address).path.rpartition("/")[2])
    return Path(safe_name(last.replace("/", "_"))).stem if last else "image"


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """The lines of a list as soon as they are there: without their ends, blank ones and a byte order mark."""
    start = True
    while raw := stream.readline(_LONGEST_LINE):
        line = (raw.removeprefix(b"\xef\xbb\xbf") if start else raw).rstrip(b"\r\n")
        start = False
        if not raw.endswith(b"\n") and len(raw) == _LONGEST_LINE:
            while (rest := stream.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
        if line.strip():
            yield fsdecode(line)
