"""Whatever a user calls an image gives the same tensor, or an error that says what is expected."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dcn.runs.images import open_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
EXPECTED = torch.from_numpy(RGB).permute(2, 0, 1)
EXPECTED_GREY = torch.from_numpy(GREY)[None].expand(3, -1, -1)
ALPHA = np.concatenate((RGB, np.full((6, 9, 1), 7, np.uint8)), 2)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, EXPECTED),
        (ALPHA, EXPECTED),
        (GREY, EXPECTED_GREY),
        (GREY[:, :, None], EXPECTED_GREY),
        (RGB[:, ::-1][:, ::-1], EXPECTED),
        (RGB / 255, EXPECTED),
        ((RGB / 255).astype(np.float32), EXPECTED),
        ((RGB / 255).astype(">f4"), EXPECTED),
        (EXPECTED, EXPECTED),
        (EXPECTED[:1], EXPECTED_GREY),
        (EXPECTED[0], EXPECTED_GREY),
        (EXPECTED.float() / 255, EXPECTED),
        (torch.from_numpy(ALPHA).permute(2, 0, 1), EXPECTED),
        (Image.fromarray(RGB), EXPECTED),
        (Image.fromarray(ALPHA), EXPECTED),
        (Image.fromarray(GREY), EXPECTED_GREY),
    ],
    ids=lambda value: None,
)
def test_every_form_gives_the_same_pixels(image: Any, expected: torch.Tensor) -> None:
    result = open_image(image)
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    assert torch.equal(result, expected)


@pytest.mark.parametrize("data", [b"\xff\xd8", io.BytesIO(b"\xff\xd8")], ids=["bytes", "file"])
def test_encoded_bytes_are_told_what_opens_them(data: Any) -> None:
    with pytest.raises(ValueError, match=r"images: .*got Bytes|images: .*got bytes") as error:
        open_image(data)
    assert "PIL.Image.open(io.BytesIO(data))" in str(error.value)


@pytest.mark.filterwarnings("error")
def test_an_array_that_cannot_be_written_gives_no_warning() -> None:
    image = np.asarray(Image.fromarray(RGB))  # of Pillow's memory
    assert not image.flags.writeable
    assert torch.equal(open_image(image), EXPECTED)


@pytest.mark.parametrize("as_path", [str, Path], ids=["text", "path"])
def test_a_file_is_read_upright(tmp_path: Path, as_path: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    picture = Image.fromarray(np.ascontiguousarray(np.rot90(RGB)))
    picture.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(open_image(as_path(tmp_path / "a.png")), EXPECTED)
    assert torch.equal(open_image(Image.open(tmp_path / "a.png")), EXPECTED)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB.astype(np.float32), r"floating point values in 0\.\.1, got 0\.\.249; convert values in 0\.\.255 to uint8"),
        (RGB / 255 - 0.5, r"floating point values in 0\.\.1, got -0\.5"),
        (np.full((4, 4), np.nan), r"floating point values in 0\.\.1, got nan"),
        (RGB.astype(np.int64), "uint8 in 0..255 or floating point in 0..1, got torch.int64"),
        (RGB.astype(np.uint16), "an array of uint8 or floating point, got uint16"),
        (np.array([["a"]]), "an array of uint8 or floating point"),
        (RGB[None], r"got shape \[1, 6, 9, 3\] of uint8; a batch is given as a list"),
        (RGB.transpose(2, 0, 1), "expected an array .*; the channels are last in an array, first in a tensor"),
        (RGB[:, :, :2], r"\[H, W, 4\], got shape \[6, 9, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), r"got shape \[0, 4, 3\]"),
        (EXPECTED.permute(1, 2, 0), r"\[4, H, W\], got shape \[6, 9, 3\]"),
        (3.5, "a path, an array, a tensor, a PIL.Image or a list of these, got float"),
        (None, "got NoneType"),
        ({"a": 1}, "got dict"),
    ],
    ids=lambda value: None,
)
def test_anything_else_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_image(image)
