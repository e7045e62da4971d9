from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcn.formats.images import (
    image_size,
    is_turned,
    read_image,
    read_index_image,
    size_message,
    write_image,
)
from dcn.formats.problems import BrokenImageError


def _save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)
    return path


GREY = np.array([[0, 100, 255], [7, 8, 9]], np.uint8)
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14


def test_rgb_keeps_planes_rows_and_columns(tmp_path: Path) -> None:
    read = read_image(_save(tmp_path / "x.png", COLOUR))
    assert torch.equal(read, torch.from_numpy(COLOUR.transpose(2, 0, 1).copy()))
    assert read.is_contiguous()


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        pytest.param(GREY, None, id="grey"),
        pytest.param(GREY, "LA", id="grey-alpha"),
        pytest.param(GREY, "RGBA", id="rgba"),
        pytest.param(GREY, "P", id="palette"),
        pytest.param(GREY.astype(np.uint16) * 257, None, id="sixteen-bit"),
        pytest.param(GREY.astype(np.int32), None, id="thirty-two-bit"),
        pytest.param(GREY.astype(np.float32), None, id="float"),
    ],
)
def test_every_mode_gives_the_same_grey(tmp_path: Path, array: np.ndarray, mode: str | None) -> None:
    path = tmp_path / ("x.tif" if array.dtype in (np.int32, np.float32) else "x.png")
    assert torch.equal(read_image(_save(path, array, mode)), torch.from_numpy(GREY).expand(3, 2, 3))


@pytest.mark.parametrize("kind", [np.float32, np.int32], ids=["float", "int"])
@pytest.mark.parametrize("values", [[0, 100, 200, 256], [0, 100, 200, 300], [-5, 0, 255, 70000]], ids=str)
def test_grey_without_a_white_of_its_own_is_clipped(tmp_path: Path, kind: type, values: list[int]) -> None:
    path = _save(tmp_path / "x.tif", np.array([values], dtype=kind))
    assert read_image(path)[0, 0].tolist() == [min(max(value, 0), 255) for value in values]


def test_numbers_that_are_none_are_black_or_white(tmp_path: Path) -> None:
    path = _save(tmp_path / "x.tif", np.array([[np.nan, np.inf, -np.inf, 7.5]], dtype=np.float32))
    assert read_image(path)[0, 0].tolist() == [0, 255, 0, 8]


def test_sixteen_bit_values_are_divided_whatever_they_are(tmp_path: Path) -> None:
    """White is 65535 by the type of the file; one that is almost black is mentioned."""
    path = _save(tmp_path / "x.png", np.array([[0, 128, 129, 255]], np.uint16))
    with pytest.warns(UserWarning, match=r"x\.png: a 16-bit image with values up to 255 is almost black"):
        assert read_image(path)[0, 0].tolist() == [0, 0, 1, 1]
    assert read_image(_save(path, np.array([[25700, 65535]], np.uint16)))[0, 0].tolist() == [100, 255]


@pytest.mark.parametrize("upright", [False, True], ids=["as-stored", "upright"])
def test_sixteen_bit_pgm_files_are_divided_too(tmp_path: Path, upright: bool) -> None:
    """Pillow opens them in mode I, as images of 32 bits."""
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 65535\n" + np.array([25700, 65535], ">u2").tobytes())
    assert read_image(tmp_path / "x.pgm", upright=upright)[0, 0].tolist() == [100, 255]


def test_cmyk_white_and_black(tmp_path: Path) -> None:
    inks = np.zeros((1, 2, 4), np.uint8)
    inks[0, 1, 3] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "x.tif")
    assert read_image(tmp_path / "x.tif")[:, 0].T.tolist() == [[255, 255, 255], [0, 0, 0]]


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "x.png", transparency=b"\x00\xff")
    assert read_image(tmp_path / "x.png")[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]


@pytest.mark.parametrize(("upright", "size"), [(False, (2, 3)), (True, (3, 2))], ids=["as-stored", "upright"])
def test_orientation(tmp_path: Path, upright: bool, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a quarter turn clockwise puts it upright
    Image.fromarray(COLOUR).save(tmp_path / "x.png", exif=exif)
    read = read_image(tmp_path / "x.png", upright=upright)
    stored = torch.from_numpy(COLOUR.transpose(2, 0, 1).copy())
    assert tuple(read.shape[1:]) == size
    assert torch.equal(read, torch.rot90(stored, -1, (1, 2)) if upright else stored)
    assert image_size(tmp_path / "x.png") == (2, 3)


def _bomb(path: Path) -> Path:
    """A PNG of a few bytes that claims 60000x60000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def _truncated(path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def _text(path: Path) -> Path:
    path.write_text("no picture")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda p: p, "does not exist", id="missing"),
        pytest.param(_text, "not an image", id="text"),
        pytest.param(_truncated, "cannot be decoded .*truncated", id="truncated"),
        pytest.param(_bomb, "cannot be decoded .*decompression bomb", id="bomb"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, make: object, message: str) -> None:
    assert callable(make)
    path = make(tmp_path / "x.png")
    with pytest.raises(ValueError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("name", "message"), [("gone.png", "does not exist"), ("x.txt", "not an image")])
def test_size_of_unreadable_files(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "x.txt").write_text("no picture")
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        image_size(tmp_path / name)


def test_written_png_comes_back(tmp_path: Path) -> None:
    image = torch.randint(256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "x.png", image)
    assert torch.equal(read_image(tmp_path / "x.png"), image)


def test_indices_are_not_looked_up_in_the_palette(tmp_path: Path) -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([9] * 768)
    picture.putdata([0, 20, 255])
    picture.save(tmp_path / "map.png")
    assert read_index_image(tmp_path / "map.png").tolist() == [[0, 20, 255]]
    Image.new("RGB", (2, 2), (0, 0, 1)).save(tmp_path / "colours.png")
    with pytest.raises(ValueError, match=r"expected one channel of class indices .* mode RGB"):
        read_index_image(tmp_path / "colours.png")
    with pytest.raises(ValueError, match="does not exist"):
        read_index_image(tmp_path / "nowhere.png")


def _png(path: Path, width: int, height: int) -> Path:
    """A PNG of one black channel, written row by row."""
    packer = zlib.compressobj(1)
    row = b"\0" * (width + 1)
    body = b"".join([packer.compress(row * 1000) for _ in range(height // 1000)]) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


@pytest.mark.parametrize("read", [read_image, read_index_image, image_size], ids=["image", "mask", "size"])
def test_an_image_below_the_limit_of_pillow_is_refused_all_the_same(tmp_path: Path, read: object) -> None:
    """169 million pixels: Pillow decodes them, 500 MB as RGB and several times that on the way to a model."""
    path = _png(tmp_path / "x.png", 13_000, 13_000)
    assert callable(read)
    with pytest.raises(BrokenImageError, match=r"x\.png: expected at most 120,000,000 pixels, got 13000x13000"):
        read(path)


def _photo(path: Path, keep: float = 1.0) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def test_a_jpeg_without_its_end_is_repaired(tmp_path: Path) -> None:
    whole = read_image(_photo(tmp_path / "whole.jpg"))
    path = _photo(tmp_path / "x.jpg", 0.6)
    with pytest.raises(BrokenImageError, match=r"x\.jpg: the image cannot be decoded"):
        read_image(path)
    repaired = read_image(path, repair=True)
    assert repaired.shape == whole.shape
    assert torch.equal(repaired[:, :16], whole[:, :16])  # what is there is as it was
    assert not torch.equal(repaired[:, -8:], whole[:, -8:])


@pytest.mark.parametrize(
    "make", [lambda p: _photo(p / "x.png", 0.6), lambda p: _photo(p / "x.jpg", 0.0), lambda p: _text(p / "x.jpg")]
)
def test_other_damage_is_not_repaired(tmp_path: Path, make: object) -> None:
    assert callable(make)
    with pytest.raises(BrokenImageError, match="cannot be decoded"):
        read_image(make(tmp_path), repair=True)


@pytest.mark.parametrize(("mode", "read"), [("RGB", True), ("RGBA", True), ("LA", True)])
def test_a_mask_saved_in_grey_colours_is_one_channel(tmp_path: Path, mode: str, read: bool) -> None:
    Image.fromarray(np.array([[0, 255, 7]], np.uint8)).convert(mode).save(tmp_path / "x.png")
    assert read_index_image(tmp_path / "x.png").tolist() == [[0, 255, 7]]


def test_bilevel_masks(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "x.png")
    assert read_index_image(tmp_path / "x.png").tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("orientation", "annotated", "message"),
    [
        (6, (3, 2), r"stored turned \(EXIF orientation\) and annotated upright; the option upright=true"),
        (1, (3, 2), "width and height are exchanged in the annotation"),
        (6, (5, 5), r"the annotation says 5x5 pixels, .*x\.png has 3x2$"),
    ],
    ids=["turned", "exchanged", "other"],
)
def test_what_is_said_about_another_size(
    tmp_path: Path, orientation: int, annotated: tuple[int, int], message: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / "x.png", exif=exif)
    assert re.search(message, size_message(tmp_path / "x.png", annotated, (2, 3)))
    assert image_size(tmp_path / "x.png", upright=True) == ((3, 2) if orientation == 6 else (2, 3))
    assert is_turned(tmp_path / "x.png") == (orientation == 6)
