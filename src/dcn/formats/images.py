"""Image files to RGB tensors and index tensors, and back: one rule for every mode, one clear error for the rest.

Values of grey images are scaled by the *type* of the file, never by what its values look like: 8 bits stay, 16 bits are
divided by 257 (65535 is white), 32-bit integers and floats have no white of their own and are clipped to 0..255.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dcn.extras import require
from dcn.formats.documents import MEGABYTE
from dcn.formats.problems import BrokenImageError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 120_000_000
"""Largest image that is decoded, in pixels: 360 MB as RGB; the largest cameras have about 100 million."""

_MAX_FILE = 1024 * MEGABYTE
_END_OF_JPEG = b"\xff\xd9"
_TURNED = (5, 6, 7, 8)
_ORIENTATION = 0x0112  # the EXIF tag

# What Pillow's decoders raise on hostile or truncated files, beside OSError: SyntaxError (PNG chunks), struct.error and
# EOFError (headers), ValueError and OverflowError (sizes), IndexError and TypeError (TIFF tags), MemoryError.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, OverflowError, IndexError, TypeError, MemoryError, struct.error)


def read_image(path: str | Path, *, upright: bool = False, repair: bool = False) -> Tensor:
    """Decode an image file to ``[3, H, W]`` uint8, RGB.

    Args:
        path: any format Pillow reads.
        upright: turn the image as its EXIF orientation says. Datasets leave it off unless they are told otherwise,
            because annotations refer to the stored pixels and the public evaluators do not turn them; prediction on
            photographs sets it.
        repair: decode a JPEG that lacks its end; the missing part is grey.

    Raises:
        BrokenImageError: the file is missing, truncated, broken or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    with _opened(path, repair) as image:
        return _pixels(image, str(path), upright)


def decode_image(data: bytes, name: str, *, upright: bool = False) -> Tensor:
    """`read_image` of the bytes of a file.

    Args:
        data: the content of an image file.
        name: what errors call it.
        upright: as for `read_image`.

    Raises:
        BrokenImageError: the image is truncated, broken or larger than `MAX_PIXELS`.
    """
    with _decoded(io.BytesIO(data), name) as image:
        return _pixels(image, name, upright)


def _pixels(image: Image.Image, name: str, upright: bool) -> Tensor:
    array = np.array(to_rgb(_upright(image) if upright else image, name), dtype=np.uint8)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    turned.format = image.format  # lost in the copy
    return turned


def _opened(path: Path, repair: bool = False) -> AbstractContextManager[Image.Image]:
    """The image with its header read and its size checked; ``repair`` adds the end that a JPEG may lack."""
    return _decoded(partial(_mended, path) if repair else path, str(path))


@contextmanager
def _decoded(source: Path | io.BytesIO | Callable[[], io.BytesIO], name: str) -> Iterator[Image.Image]:
    """An image with its header read and its size checked.

    Raises:
        BrokenImageError: no such file, too many pixels, or what Pillow cannot decode, in the body too.
    """
    require("PIL")
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            image = Image.open(source() if callable(source) else source)
        with image:
            _check_size(image, name)
            yield image
    except BrokenImageError:
        raise
    except FileNotFoundError as error:
        raise BrokenImageError(f"{name}: the image file does not exist") from error
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise BrokenImageError(f"{name}: the image cannot be decoded ({_reason(error)})") from error


def _check_size(image: Image.Image, name: str) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise BrokenImageError(f"{name}: expected at most {MAX_PIXELS:,} pixels, got {size}; make the image smaller")


def _mended(path: Path) -> io.BytesIO:
    """A JPEG with one more mark of its end; files of other kinds as they are."""
    with path.open("rb") as file:
        data = file.read(_MAX_FILE)
    return io.BytesIO(data + _END_OF_JPEG if data.startswith(b"\xff\xd8") else data)


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Any Pillow image as 8-bit RGB.

    Greyscale is repeated, palettes are looked up, CMYK is converted, transparency is dropped (not blended); grey of
    more than 8 bits by the rule of the module, with a warning where a file does not look like it.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _deep_grey(image, name)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image, name: str) -> Image.Image:
    from PIL import Image as PillowImage

    values = np.asarray(image)
    largest = float(np.nanmax(values)) if values.size and not np.isnan(values).all() else 0.0
    # Pillow opens PGM files of 16 bits in mode I, and before 10.3 also PNG files. Neither holds 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = (values.astype(np.uint32) + 128) // 257
        if 0 < largest < 256:
            _warn(name, f"a 16-bit image with values up to {largest:g} is almost black (65535 is white)")
    else:
        grey = np.clip(np.rint(np.nan_to_num(values.astype(np.float64), posinf=255, neginf=0)), 0, 255)
        if largest > 255 and (values > 255).mean() > 0.5:
            _warn(name, f"values up to {largest:g} are clipped to 255; save the image with 8 or 16 bits")
    return PillowImage.fromarray(grey.astype(np.uint8), "L")


def _warn(name: str, message: str) -> None:
    warnings.warn(f"{name}: {message}", stacklevel=6)


def read_index_image(path: str | Path) -> Tensor:
    """The pixel values of an image with one channel, ``[H, W]`` int64: palettes are not looked up.

    An RGB image whose three channels are equal counts as one channel: image editors save masks like that.

    Raises:
        BrokenImageError: the file is missing, broken or larger than `MAX_PIXELS`.
        ValueError: the image has colours instead of indices.
    """
    path = Path(path)
    with _opened(path) as image:
        mode, values = image.mode, np.array(image)
    return _indices(values, mode, str(path))


def decode_index_image(data: bytes, name: str) -> Tensor:
    """`read_index_image` of the bytes of a file, which errors call ``name``."""
    with _decoded(io.BytesIO(data), name) as image:
        mode, values = image.mode, np.array(image)
    return _indices(values, mode, name)


def has_colors(path: str | Path) -> bool:
    """Whether a mask has colours rather than one channel of numbers; palettes are numbers.

    Raises:
        BrokenImageError: the file is missing, broken or larger than `MAX_PIXELS`.
    """
    with _opened(Path(path)) as image:
        return image.mode in ("RGB", "RGBA", "CMYK", "YCbCr") and not _is_grey(np.array(image), image.mode)


def _indices(array: np.ndarray, mode: str, name: str) -> Tensor:
    if mode in ("RGB", "RGBA", "LA") and _is_grey(array, mode):
        array = array[..., 0]
    if array.ndim != 2 or mode == "F":
        raise ValueError(
            f"{name}: expected one channel of class indices (grey or palette), got an image of mode {mode}; "
            "write the number of its class in place of each colour, or say what the colours mean (option colors)"
        )
    return torch.from_numpy(array.astype(np.int64))


def _is_grey(array: np.ndarray, mode: str) -> bool:
    """Whether the colours are all grey and nothing is transparent."""
    opaque = mode == "RGB" or bool((array[..., -1] == 255).all())
    return opaque and (mode == "LA" or bool((array[..., :1] == array[..., 1:3]).all()))


def image_size(path: str | Path, *, upright: bool = False) -> tuple[int, int]:
    """``(height, width)`` of an image file from its header alone: as stored, or ``upright`` as its EXIF says.

    Raises:
        BrokenImageError: the file is missing, its header cannot be read, or it claims too many pixels.
    """
    path = Path(path)
    with _opened(path) as image:
        width, height = image.size
        turned = upright and image.getexif().get(_ORIENTATION) in _TURNED
    return (width, height) if turned else (height, width)


def is_turned(path: str | Path) -> bool:
    """Whether the EXIF orientation of a photo exchanges its width and height.

    Raises:
        BrokenImageError: as `image_size`.
    """
    with _opened(Path(path)) as image:
        return image.getexif().get(_ORIENTATION) in _TURNED


def size_message(path: Path, annotated: tuple[int, int], stored: tuple[int, int]) -> str:
    """What to say about an image whose pixels are not of the annotated size; sizes are ``(height, width)``."""
    said, has = (f"{width}x{height}" for height, width in (annotated, stored))
    message = f"the annotation says {said} pixels, {path} has {has}"
    if annotated != (stored[1], stored[0]):
        return message
    if is_turned(path):
        return (
            f"{message}: the photo is stored turned (EXIF orientation) and annotated upright; "
            "the option upright=true (data.options.upright=true in a recipe) turns such photos"
        )
    return f"{message}: width and height are exchanged in the annotation"


def write_image(path: str | Path, image: Tensor) -> None:
    """Write ``[3, H, W]`` uint8 RGB; the suffix chooses the format; JPEG at quality 95 with full colour."""
    with Path(path).open("wb") as file:
        write_image_to(file, Path(path).suffix, image)


def write_image_to(file: IO[bytes], suffix: str, image: Tensor) -> None:
    """`write_image` into an open file, in the format of an ending such as ``".png"``."""
    require("PIL")
    from PIL import Image

    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    picture.save(file, format=_format_of(suffix), quality=95, subsampling=0)


def _format_of(suffix: str) -> str:
    """Pillow's name of the format of an ending.

    Raises:
        ValueError: Pillow cannot write it.
    """
    from PIL import Image

    known = Image.registered_extensions()
    if suffix.lower() not in known:
        raise ValueError(f"suffix: expected an ending of an image such as .png or .jpg, got {suffix!r}")
    return known[suffix.lower()]


def _reason(error: BaseException) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image, or a format that Pillow does not know"
    return str(error) or type(error).__name__
