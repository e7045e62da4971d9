"""Image, mask and description files with something odd about them: what becomes of each.

The fault table in ``docs/data.md`` is printed from this list.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Make = Callable[[Path], object]


@dataclass(frozen=True)
class OddFile:
    """A file with something odd about it.

    Attributes:
        what: for the fault table, and the id of the test.
        kind: ``image``, ``mask`` or ``dataset.yaml``.
        name: of the file.
        make: writes it.
        refused: the end of the error message; empty where the file is accepted.
        row: first row of the first channel, or of the mask, where it is accepted.
    """

    what: str
    kind: str
    name: str
    make: Make
    refused: str = ""
    row: tuple[int, ...] = ()


def _array(values: object, kind: type = np.uint8, mode: str | None = None) -> Make:
    def make(path: Path) -> None:
        image = Image.fromarray(np.array([values], dtype=kind))
        (image if mode is None else image.convert(mode)).save(path)

    return make


def _photo(path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(path)


def _cut(path: Path) -> None:
    _photo(path)
    path.write_bytes(path.read_bytes()[:2000])


def _claim(width: int, height: int) -> Make:
    """A PNG that claims a size and holds next to nothing."""

    def make(path: Path) -> None:
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
        data = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)

    return make


def _mat(change: Callable[[bytes], bytes]) -> Make:
    def make(path: Path) -> None:
        from scipy.io import savemat

        labels = np.random.default_rng(0).integers(0, 3, (20, 30), dtype=np.uint8)
        savemat(path, {"GTcls": {"Segmentation": labels}}, do_compression=True)
        path.write_bytes(change(path.read_bytes()))

    return make


def _text(text: str | bytes) -> Make:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


_PGM = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 25700, 65535)
_FLOATS = (0, 100, 200, 256)
_SAID = "classes: [ground, crack]\nsplits: {train: {images: img, labels: lab}}\n"
_ALIASES = "a: &a [x, x]\nb: &b [*a, *a]\n"

IMAGES = [
    OddFile(
        "float grey with values above 255: clipped",
        "image",
        "x.tif",
        _array(_FLOATS, np.float32),
        row=(0, 100, 200, 255),
    ),
    OddFile("32-bit integer grey: clipped", "image", "x.tif", _array(_FLOATS, np.int32), row=(0, 100, 200, 255)),
    OddFile("16-bit grey: divided by 257", "image", "x.png", _array((0, 25700, 65535), np.uint16), row=(0, 100, 255)),
    OddFile("16-bit grey PGM: divided by 257", "image", "x.pgm", _text(_PGM), row=(0, 100, 255)),
    OddFile("grey, repeated", "image", "x.png", _array((0, 7, 255)), row=(0, 7, 255)),
    OddFile("transparency, dropped", "image", "x.png", _array((0, 7, 255), mode="LA"), row=(0, 7, 255)),
    OddFile("missing", "image", "x.png", lambda path: None, "the image file does not exist"),
    OddFile("empty", "image", "x.jpg", _text(""), "not an image, or a format that Pillow does not know"),
    OddFile("a Git LFS pointer or another text", "image", "x.jpg", _text("version https://git-lfs"), "not an image"),
    OddFile("JPEG that breaks off (`broken=repair` decodes it)", "image", "x.jpg", _cut, "the image cannot be decoded"),
    OddFile("PNG that breaks off", "image", "x.png", _cut, "the image cannot be decoded"),
    OddFile(
        "more than 120 million pixels", "image", "x.png", _claim(13_000, 13_000), "expected at most 120,000,000 pixels"
    ),
    OddFile("decompression bomb", "image", "x.png", _claim(60_000, 60_000), "the image cannot be decoded"),
    OddFile("palette: indices are not looked up", "mask", "x.png", _array((0, 1, 2), mode="P"), row=(0, 1, 2)),
    OddFile("RGB with equal channels", "mask", "x.png", _array((0, 1, 2), mode="RGB"), row=(0, 1, 2)),
    OddFile("one bit", "mask", "x.png", _array((0, 255), mode="1"), row=(0, 1)),
    OddFile("colours", "mask", "x.png", _array(((1, 2, 3), (4, 5, 6))), "expected one channel of class indices"),
    OddFile(
        "value that stands for no class",
        "mask",
        "x.png",
        _array((0, 7)),
        "expected the values 0-2, 255, got [7]",
    ),
    OddFile("0 and 255 with `values: [0, 255]`", "mask of 0 and 255", "x.png", _array((0, 255)), row=(0, 1)),
    OddFile("float", "mask", "x.tif", _array((0, 1), np.float32), "expected one channel of class indices"),
    OddFile(".mat that breaks off", "mask", "x.mat", _mat(lambda data: data[:200]), "not a label file of SBD"),
    OddFile(
        ".mat with damaged compression",
        "mask",
        "x.mat",
        _mat(lambda data: data[:150] + bytes(30) + data[180:]),
        "not a label file of SBD",
    ),
    OddFile("text with the name of a .mat", "mask", "x.mat", _text("no"), "not a label file of SBD"),
    OddFile("UTF-16", "dataset.yaml", "dataset.yaml", _text(_SAID.encode("utf-16"))),
    OddFile("aliases", "dataset.yaml", "dataset.yaml", _text(_ALIASES), "expected values, got the alias *a"),
    OddFile("nested deeply", "dataset.yaml", "dataset.yaml", _text("a: " + "[" * 3000), "not valid YAML"),
    OddFile("unknown key", "dataset.yaml", "dataset.yaml", _text(_SAID + "clases: []"), "got 'clases'"),
    OddFile(
        "a value for two classes",
        "dataset.yaml",
        "dataset.yaml",
        _text(_SAID + "values: [1, 1]"),
        "expected each value once, got 1 twice",
    ),
    OddFile(
        "a text for the classes",
        "dataset.yaml",
        "dataset.yaml",
        _text(_SAID.replace("[ground, crack]", "cat")),
        "classes: expected a list of names",
    ),
]
