"""From words to what a prediction looks at: files, folders, patterns, URLs, cameras, standard input."""

from __future__ import annotations

import glob
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from os import PathLike, fsdecode, fspath
from pathlib import Path
from typing import IO, Any, TypeVar

from dcn.formats.file_names import SUFFIXES
from dcn.formats.video import VIDEO_SUFFIXES, is_video
from dcn.runs.images import is_image, is_url
from dcn.runs.inputs import CameraSource, Frames, ImageSource, Inputs, Items, Source, VideoSource
from dcn.runs.outputs import MANIFEST

LOGGER = logging.getLogger("dcn")
STANDARD_INPUT = "-"
T = TypeVar("T")
_LONGEST_LINE = 1 << 16  # bytes; the longest path of any system has 32,767 letters
_NUMBER = re.compile(r"\d+")


def inputs_of(images: Any, *, recursive: bool = False, frames: Frames | None = None) -> Inputs:
    """What a caller from Python means: a word of :func:`find_inputs`, an image, or an iterable of both.

    Words that are given alone, or in a list or tuple, are looked up at once; other iterables are read as they go.

    Raises:
        ValueError: as :func:`find_inputs`, or ``images`` is none of these.
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
    if isinstance(images, list | tuple) and not any(isinstance(item, str | PathLike | int) for item in images):
        frames.check([ImageSource(f"image {number}") for number in range(len(images))])
    if not isinstance(images, Iterable):
        raise ValueError(
            "images: expected a path, a URL, a camera's number, an array, a tensor, a PIL.Image, or an iterable "
            f"of these, got {type(images).__name__}"
        )
    return Inputs([Items(images, lambda item: _sources_of(_word(item), recursive, frames))])


def _word(item: Any) -> str:
    return str(item) if isinstance(item, int) else fspath(item)


def find_inputs(words: Sequence[str], *, recursive: bool = False, frames: Frames | None = None) -> Inputs:
    """The sources that words mean, in the order given; a file is taken once, however it is spelled.

    Args:
        words: image and video files, folders (the images in them), patterns, image URLs, numbers of
            cameras, and ``-``: the lines of standard input, which are paths and URLs.
        recursive: look into the folders below, too; each is visited once, also where links lead back.
        frames: which frames of videos and cameras; ``None``: all.

    Raises:
        ValueError: a word names nothing, a folder has no images, or ``frames`` are chosen of images alone.
        MissingPackageError: a video or camera without the package that reads it.
    """
    frames = Frames() if frames is None else frames
    sources = [source for word in words for source in _sources_of(word, recursive, frames)]
    frames.check(sources)
    for source in sources:
        source.check()
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
    if is_url(word):
        return [ImageSource(word)]
    if _NUMBER.fullmatch(word) and not os.path.lexists(word):
        return [CameraSource(word, frames)]
    return [_source_at(path, frames) for path in _paths_of(word, recursive)]


def _sources_at(line: str, recursive: bool, frames: Frames) -> list[Source]:
    """The sources that a line of a list means: a URL or a path, which is no pattern."""
    if is_url(line):
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
    here = [path] if path.exists() else [Path(name) for name in sorted(_matches(str(path)))]
    here = [path for path in here if not path.is_dir()]
    if not here:
        raise ValueError(
            f"images: expected an image, a video, a folder or a pattern that matches some, got none at {word!r}"
        )
    return here


def _matches(pattern: str) -> set[str]:
    """What a pattern matches; ``**`` visits each folder once, where `glob` follows links in circles."""
    pattern = f"{pattern}{os.sep}*" if pattern.endswith("**") else pattern
    head, mark, tail = pattern.partition(f"**{os.sep}")
    if not mark or not (head.endswith(os.sep) or head == ""):
        return set(glob.glob(pattern))
    starts = [Path(start) for start in (sorted(glob.glob(head)) if head else ["."])]
    below = (folder for start in starts for folder in _folders_below(start))
    return {match for folder in below for match in _matches(os.path.join(glob.escape(str(folder)), tail))}


def _images_in(folder: Path, recursive: bool, word: str) -> list[Path]:
    folders = _folders_below(folder) if recursive else [folder]
    here = [file for one in folders for file in sorted(one.iterdir()) if _is_image(file)]
    if not here:
        raise ValueError(
            f"images: expected {', '.join(SUFFIXES)} files, got none at {word!r}{_hint(folder, recursive)}"
        )
    return here


def _hint(folder: Path, recursive: bool) -> str:
    """What helps with a folder that has no images."""
    inside = list(folder.iterdir())
    video = next((file.suffix for file in inside if file.suffix.lower() in VIDEO_SUFFIXES), None)
    if video is not None:
        return f'; for its videos give a pattern: "{folder}/*{video}"'
    if recursive or not any(file.is_dir() for file in inside):
        return ""
    return f'; a pattern such as "{folder}/**/*.jpg", or --recursive of `dcn predict`, looks below'


def _folders_below(folder: Path) -> Iterator[Path]:
    """A folder and those below it, links too, each once."""
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
            left += [path for path in below if not _is_left_out(path)]


def _is_left_out(folder: Path) -> bool:
    """Hidden folders, companions of archives, and what an earlier prediction wrote."""
    return folder.name.startswith(".") or folder.name == "__MACOSX" or (folder / MANIFEST).is_file()


def _is_image(file: Path) -> bool:
    """Names that begin with a dot are of systems and of unfinished files; pipes and folders are no images."""
    named = file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    return named and (file.is_file() or not file.exists())


def _once(items: Iterable[T], path_of: Callable[[T], Path | None]) -> list[T]:
    """Items without those whose file came before, in another spelling too; a link is a file of its own."""
    real = cache(os.path.realpath)
    first: dict[object, T] = {}
    for item in items:
        path = path_of(item)
        first.setdefault(item if path is None else (real(path.parent), path.name), item)
    return list(first.values())


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
