"""Videos of a few frames whose pixels tell the number of the frame."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av: Any = pytest.importorskip("av", reason="PyAV is not installed: pip install av")

HEIGHT, WIDTH, RATE = 48, 64, Fraction(10)
CODECS = {".avi": "mpeg4", ".webm": "libvpx-vp9"}


def grey_of(index: int) -> int:
    """The grey of a frame."""
    return 20 + 6 * index


def number_of(image: Any) -> int:
    """The number of the frame that an image ``[3, H, W]`` is; encoders change greys by less than half a step."""
    return round((float(image[:, : HEIGHT // 2].float().mean()) - 20) / 6)


def write_video(
    path: Path, count: int = 12, rate: Fraction = RATE, *, noise: bool = False, options: dict[str, str] | None = None
) -> Path:
    """A grey video; the lower half is noise where asked for, so that frames take many bytes."""
    generator = np.random.default_rng(0)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(CODECS.get(path.suffix, "libx264"), rate=rate)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index in range(count):
            pixels = np.full((HEIGHT, WIDTH, 3), grey_of(index), np.uint8)
            if noise:
                pixels[HEIGHT // 2 :] = generator.integers(0, 256, (HEIGHT // 2, WIDTH, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def turned(path: Path, target: Path) -> Path:
    """A copy of an mp4 file that says: show me turned clockwise by 90 degrees, as portrait videos of phones do."""
    data = path.read_bytes()
    header = data.index(b"tkhd")
    start = header + 4 + 4 + 20 + 16  # version and flags; times, track, duration; layer, volume
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    content = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    target.write_bytes(data[:start] + content + data[start + 36 :])
    return target
