"""Image files to RGB tensors: every mode Pillow reads, one clear error for everything it does not."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
"""Endings of the files, in lower case, that count as images of a folder."""

# What Pillow's decoders raise on hostile or truncated files, beside OSError: SyntaxError (PNG chunks), struct.error and
# EOFError (headers), ValueError and OverflowError (sizes), IndexError and TypeError (TIFF tags).
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    IndexError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


def _sixteen_bit(image: Image.Image) -> Image.Image:
    """Grey images of more than 8 bits, scaled so that white stays white (65535 becomes 255)."""
    values = np.asarray(image).astype(np.float64)
    scale = 257.0 if values.size and values.max() > 255 else 1.0
    return Image.fromarray(np.clip(np.rint(values / scale), 0, 255).astype(np.uint8), "L")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB.

    Greyscale is repeated, palettes are looked up, CMYK is converted, transparency is dropped (not blended), 16-bit
    greyscale is divided by 257, float greyscale is clipped to 0..255.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _sixteen_bit(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def read_image(path: str | Path, *, upright: bool = False) -> Tensor:
    """Decode an image file to ``[3, H, W]`` uint8, RGB.

    Args:
        path: any format Pillow reads.
        upright: turn the picture as its EXIF orientation says. Data sets leave it off, because annotations refer to
            the stored pixels and the public evaluators do not turn them; prediction on photographs sets it.

    Raises:
        ValueError: the file is missing, truncated, broken, or larger than Pillow's limit against decompression bombs
            (about 179 million pixels); one line naming the file.
    """
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image) if upright else image
            array = np.array(to_rgb(turned), dtype=np.uint8)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the image file does not exist") from error
    except _BROKEN as error:
        raise ValueError(f"{path}: the image cannot be decoded ({_reason(error)})") from error
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def read_index_image(path: str | Path) -> Tensor:
    """The pixel values of an image with one channel, ``[H, W]`` int64: palettes are not looked up.

    Raises:
        ValueError: the file is missing or broken, or has colours instead of indices.
    """
    try:
        with Image.open(path) as image:
            mode, array = image.mode, np.array(image)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the image file does not exist") from error
    except _BROKEN as error:
        raise ValueError(f"{path}: the image cannot be decoded ({_reason(error)})") from error
    if array.ndim != 2 or mode == "F":
        raise ValueError(
            f"{path}: expected one channel of class indices (grey or palette), got an image of mode {mode}"
        )
    return torch.from_numpy(array.astype(np.int64))


def image_size(path: str | Path) -> tuple[int, int]:
    """``(height, width)`` of an image file from its header alone, as stored (EXIF orientation is not applied).

    Raises:
        ValueError: the file is missing or its header cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the image file does not exist") from error
    except _BROKEN as error:
        raise ValueError(f"{path}: the image cannot be decoded ({_reason(error)})") from error
    return height, width


def write_image(path: str | Path, image: Tensor) -> None:
    """Write ``[3, H, W]`` uint8 RGB; the suffix chooses the format; JPEG at quality 95 with full colour."""
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path, quality=95, subsampling=0)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or a format that Pillow does not know"
    return str(error) or type(error).__name__
