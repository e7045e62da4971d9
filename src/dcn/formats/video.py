"""Video files and cameras as RGB frames, and pictures as an mp4 file; PyAV, which brings FFmpeg, does both.

The kind of a file is read from its first bytes, never from its name, and FFmpeg is told which container to expect:
playlists and other text files, through which it would open further files and addresses, are never read.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from dcn.extras import require
from dcn.formats.images import MAX_PIXELS

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".mpg", ".mpeg", ".ts", ".mts"),
    *(".m2ts", ".ogv"),
)
"""Endings, in lower case, that only videos have."""

_HEAD = 512  # first bytes of a file that tell its kind
_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip")  # what a QuickTime file without `ftyp` begins with
_IMAGE_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"jxl ")
_CODECS = ("libx264", "libopenh264", "mpeg4")  # the first that FFmpeg was built with
_CLOCK = 90_000  # ticks a second of written videos; frame rates from 23.976 to 120 are whole numbers of ticks
_SHORT = 0.9  # a video that ends before this part of what its header says is incomplete
_WAIT = 0.1  # seconds after which a silent camera looks whether it is to stop
_PATIENCE = 3.0  # seconds in which the thread of a camera has to end


class BrokenVideoError(ValueError):
    """A video that cannot be opened, or not decoded to its end; the message names it."""


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video or camera.

    Attributes:
        image: ``[3, H, W]`` uint8, RGB, upright.
        index: its number in the video, from 0; of a camera the number of frames before it.
        time: seconds since the first frame.
        rate: frames per second of the video, as its header says.
    """

    image: Tensor
    index: int
    time: float
    rate: Fraction


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that a file begins with; ``None``: no video.

    Args:
        head: the first 512 bytes or more.
    """
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _IMAGE_BRANDS else "mov"
    if head[4:8] in _ATOMS:
        return "mov"
    if head.startswith(b"RIFF"):
        return "avi" if head[8:12] == b"AVI " else None
    if head[:1] == b"\x47" and head[188:189] == b"\x47":
        return "mpegts"
    if head[4:5] == b"\x47" and head[196:197] == b"\x47":  # with a time before each packet, as of camcorders
        return "mpegts"
    starts = {
        **{b"\x1a\x45\xdf\xa3": "matroska", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf", b"FLV\x01": "flv"},
        **{b"\x00\x00\x01\xba": "mpeg", b"OggS": "ogg"},
    }
    return next((name for start, name in starts.items() if head.startswith(start)), None)


def is_video(path: Path) -> bool:
    """Whether a file is a video: by its content, or by its name where the content says nothing.

    Files that cannot be read are none.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return container_of(head) is not None or path.suffix.lower() in VIDEO_SUFFIXES


def read_video(path: Path, *, every: int = 1) -> Generator[VideoFrame, None, None]:
    """The frames of a video file.

    Args:
        path: mp4, mov, mkv, webm, avi, wmv, flv, mpeg, ts or ogv.
        every: give only each so many-th frame, from the first on.

    Raises:
        BrokenVideoError: the file cannot be opened or is no video; or, after the last frame that can be read, the
            video is damaged or ends early.
        MissingPackageError: PyAV is not installed.
    """
    require("av")
    with path.open("rb") as file:
        container = container_of(file.read(_HEAD))
        if container is None:
            raise BrokenVideoError(f"{path}: expected a video (mp4, mov, mkv, webm, avi), got a file of another kind")
        file.seek(0)
        with _opened(str(path), file, container) as (opened, stream):
            yield from _frames(str(path), opened, stream, every)
        file.seek(0)
        if container == "matroska" and _is_cut(file):
            raise BrokenVideoError(f"{path}: the video is incomplete; all frames that are there were decoded")


def _frames(name: str, container: Any, stream: Any, every: int) -> Iterator[VideoFrame]:
    rate, index = _rate(stream), -1
    clock = _Clock(rate)
    decoded = _Decoded(container, stream)
    for index, frame in enumerate(decoded):
        time = clock(index, frame)
        if index % every == 0:
            yield VideoFrame(_image(frame), index, time, rate)
    if index < 0:
        raise BrokenVideoError(f"{name}: the video has no frame that can be decoded")
    if decoded.damaged or _ends_early(container, stream, index + 1, clock.last + float(1 / rate)):
        of = f" of {stream.frames}" if stream.frames else ""
        raise BrokenVideoError(f"{name}: the video is damaged or incomplete; {index + 1}{of} frames were decoded")


class _Clock:
    """Seconds since the first frame, from the times in the file, or from the rate where it has none."""

    def __init__(self, rate: Fraction) -> None:
        self._rate = rate
        self._first: float | None = None
        self.last = 0.0

    def __call__(self, index: int, frame: Any) -> float:
        time = float(index / self._rate) if frame.time is None else float(frame.time)
        self._first = time if self._first is None else self._first
        self.last = time - self._first
        return self.last


class _Decoded:
    """Frames of a stream in FFmpeg's form; what cannot be decoded is left out and noted in ``damaged``."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self.damaged = False

    def __iter__(self) -> Iterator[Any]:
        from av.error import EOFError, FFmpegError

        packets = self._container.demux(self._stream)
        packet: Any = True
        while packet is not None:
            packet = self._next(packets)
            try:
                frames = self._stream.decode(packet)  # the last call, without a packet, gives what is left
            except EOFError:
                return
            except FFmpegError:
                self.damaged = True
            else:
                yield from frames

    def _next(self, packets: Iterator[Any]) -> Any:
        """The next packet, or ``None``."""
        from av.error import FFmpegError

        try:
            packet = next(packets, None)
        except FFmpegError:
            packet, self.damaged = None, True
        self.damaged = self.damaged or (packet is not None and packet.is_corrupt)
        return packet


def _ends_early(container: Any, stream: Any, frames: int, seconds: float) -> bool:
    """Whether a video stops before the frames, and well before the time, that its header announces.

    The count alone may include frames that an edit cut out, the time alone may be that of the sound.
    """
    return frames < stream.frames and container.duration is not None and seconds < _SHORT * container.duration / 1e6


def _is_cut(file: IO[bytes]) -> bool:
    """Whether a Matroska file is shorter than the segment that it announces."""
    head = file.read(_HEAD)
    start = head.find(b"\x18\x53\x80\x67") + 4
    if start < 4 or start >= len(head) or head[start] == 0:
        return False
    length = 9 - head[start].bit_length()  # leading zero bits of the first byte say how long the number is
    mask = (1 << 7 * length) - 1
    size = int.from_bytes(head[start : start + length], "big") & mask
    return size != mask and start + length + size > file.seek(0, os.SEEK_END)  # all ones: unknown


@contextmanager
def _opened(name: str, file: Any, container: str, options: dict[str, str] | None = None) -> Iterator[tuple[Any, Any]]:
    """A container and its video stream, checked."""
    import av
    from av.error import FFmpegError

    try:
        opened = av.open(file, format=container, options=options or {}, metadata_errors="ignore")
    except (FFmpegError, ValueError, OSError) as error:
        raise BrokenVideoError(
            f"{name}: the video cannot be opened ({_reason(error)}); it may be damaged or incomplete"
        ) from error
    with opened:
        stream = opened.streams.best("video") if opened.streams.video else None
        if stream is None:
            raise BrokenVideoError(f"{name}: expected a video, got a file without pictures, or without its index")
        if stream.codec_context is None:
            raise BrokenVideoError(f"{name}: the video is of a kind that this FFmpeg cannot decode")
        if stream.width * stream.height > MAX_PIXELS:
            raise BrokenVideoError(
                f"{name}: expected frames of at most {MAX_PIXELS:,} pixels, got {stream.width}x{stream.height}"
            )
        stream.thread_type = "AUTO"
        yield opened, stream


def _rate(stream: Any) -> Fraction:
    """Frames per second; 25 where the header says nothing that makes sense."""
    rate = stream.average_rate or stream.guessed_rate
    return Fraction(rate) if rate and 0 < rate <= 1000 else Fraction(25)


def _image(frame: Any) -> Tensor:
    """A frame as ``[3, H, W]``, turned as its container says."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def read_camera(camera: str, *, every: int = 1, stop: Callable[[], bool] = bool) -> Generator[VideoFrame, None, None]:
    """The frames of a camera, without end: always the newest one, so that a slow model does not fall behind.

    Args:
        camera: its number, or a device file.
        every: leave out at least so many frames less one between two that are given.
        stop: asked between frames; ``True`` ends the iteration.

    Raises:
        BrokenVideoError: there is no such camera, or it stopped.
        MissingPackageError: PyAV is not installed.
    """
    require("av")
    file, form, options = camera_device(camera)
    with ExitStack() as stack:
        container, stream = stack.enter_context(_opened(f"camera {camera}", file, form, options))
        newest = _Newest(_Decoded(container, stream))
        rate = _rate(stream)
        clock, due = _Clock(rate), 0
        try:
            while (got := newest.take(due, stop)) is not None:
                index, frame = got
                yield VideoFrame(_image(frame), index, clock(index, frame), rate)
                due = index + every
        finally:
            if not newest.close():
                stack.pop_all()  # the thread hangs in the driver; closing the container under it would crash
    if not stop():
        raise BrokenVideoError(f"camera {camera}: it gives no more pictures")


def camera_device(camera: str) -> tuple[str, str, dict[str, str]]:
    """What FFmpeg opens for a camera: a file, a format and options.

    Raises:
        BrokenVideoError: there is no such camera.
    """
    if sys.platform == "darwin":
        return f"{camera}:none", "avfoundation", {"framerate": "30"}
    if sys.platform == "win32":
        import av

        if not hasattr(av, "enumerate_input_devices"):
            raise BrokenVideoError(f"camera {camera}: this PyAV cannot list cameras; pip install --upgrade av")
        devices = [device.name for device in av.enumerate_input_devices("dshow") if "video" in device.media_types]
        if not (camera.isdigit() and int(camera) < len(devices)):
            raise BrokenVideoError(f"camera {camera}: expected one of {len(devices)} cameras: {', '.join(devices)}")
        return f"video={devices[int(camera)]}", "dshow", {}
    path = f"/dev/video{camera}" if camera.isdigit() else camera
    if not os.path.exists(path):
        here = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        raise BrokenVideoError(f"camera {camera}: {path} does not exist; cameras here: {here}")
    return path, "v4l2", {}


class _Newest:
    """Decodes in a thread of its own and keeps the newest frame alone."""

    def __init__(self, frames: _Decoded) -> None:
        self._frames = frames
        self._changed = threading.Condition()
        self._frame: tuple[int, Any] | None = None
        self._closed = self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for index, frame in enumerate(self._frames):
                with self._changed:
                    if self._closed:
                        return
                    self._frame = (index, frame)
                    self._changed.notify()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def take(self, due: int, stop: Callable[[], bool]) -> tuple[int, Any] | None:
        """The newest frame once its number is ``due`` or more; ``None``: there will be none."""
        with self._changed:
            while self._frame is None or self._frame[0] < due:
                if self._ended or stop():
                    return None
                self._changed.wait(_WAIT)
            return None if stop() else self._frame

    def close(self) -> bool:
        """End the thread; whether it ended."""
        with self._changed:
            self._closed = True
        self._thread.join(_PATIENCE)
        return not self._thread.is_alive()


class VideoWriter:
    """Pictures as an mp4 file (H.264 where FFmpeg has it).

    Args:
        path: the file.
        size: ``(height, width)`` of the first picture; odd ones grow by one pixel, as H.264 wants; later pictures of
            another size are scaled.
        rate: frames per second.

    Raises:
        MissingPackageError: PyAV is not installed.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction) -> None:
        require("av")
        import av

        self._start: float | None = None
        self._ticks = -1
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._file = path.open("w+b")
        self._container: Any = av.open(self._file, "w", format="mp4")
        codec = next(name for name in _CODECS if name in av.codecs_available)
        self._stream = self._container.add_stream(codec, rate=rate.limit_denominator(1001))
        self._stream.height, self._stream.width = self._size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _CLOCK)

    def add(self, image: Tensor, time: float) -> None:
        """Append a picture ``[3, H, W]`` uint8 that is shown from ``time`` on, in seconds."""
        import av

        self._start = time if self._start is None else self._start
        self._ticks = max(self._ticks + 1, round((time - self._start) * _CLOCK))
        pixels = image.permute(1, 2, 0).numpy()
        rows, columns = pixels.shape[0] % 2, pixels.shape[1] % 2
        frame = av.VideoFrame.from_ndarray(np.pad(pixels, ((0, rows), (0, columns), (0, 0)), "edge"), format="rgb24")
        frame = frame.reformat(width=self._size[1], height=self._size[0], format="yuv420p")
        frame.pts, frame.time_base = self._ticks, Fraction(1, _CLOCK)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is left and complete the file."""
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
        finally:
            self._file.close()
