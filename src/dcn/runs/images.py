"""Everything that counts as an image, to one form."""

from __future__ import annotations

import re
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image as PillowImage
from PIL import ImageOps
from torch import Tensor

from dcn.formats.documents import MEGABYTE
from dcn.formats.images import decode_image, read_image, to_rgb
from dcn.formats.problems import BrokenImageError
from dcn.formats.video import container_of, is_video
from dcn.runs.download import fetch

CHANNELS = (1, 3, 4)
MAX_DOWNLOAD = 100 * MEGABYTE
"""Largest image file that is read from a URL, in bytes."""

_URL = re.compile(r"https?://", re.IGNORECASE)
_WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)\b", re.IGNORECASE)


def is_image(value: object) -> bool:
    """Whether a value is one image, not a list of images."""
    return isinstance(value, str | PathLike | np.ndarray | Tensor | PillowImage.Image)


def _encoded(value: object) -> bool:
    return isinstance(value, bytes | bytearray) or hasattr(value, "read")


def open_image(image: Any) -> Tensor:
    """Any accepted image as ``[3, H, W]`` uint8 RGB on the CPU.

    Args:
        image: one of

            * a path: read with all modes of :func:`dcn.formats.images.read_image`, upright as EXIF says;
            * an ``http://`` or ``https://`` URL of an image file of at most :data:`MAX_DOWNLOAD` bytes, likewise;
            * an array ``[H, W]``, ``[H, W, 1]`` (grey), ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA);
            * a tensor ``[H, W]``, ``[1, H, W]``, ``[3, H, W]`` or ``[4, H, W]``;
            * a ``PIL.Image``, of any mode, upright as its EXIF orientation says.

            Values of arrays and tensors are uint8 in 0..255, or floating point in 0..1, which is multiplied by 255.
            Alpha is dropped.

    Raises:
        ValueError: another type, shape or range, or a file that cannot be read.
    """
    if is_url(image):
        return _from_url(image)
    if isinstance(image, str | PathLike):
        return _from_file(Path(fspath(image)).expanduser())
    if isinstance(image, PillowImage.Image):
        upright = ImageOps.exif_transpose(image)
        return torch.from_numpy(np.array(to_rgb(upright), dtype=np.uint8)).permute(2, 0, 1).contiguous()
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        shape = "[H, W], [1, H, W], [3, H, W] or [4, H, W]"
        return _from_channels(image[None] if image.ndim == 2 else image, image, "a tensor", shape)
    raise ValueError(
        f"images: expected a path, an array, a tensor, a PIL.Image or a list of these, got {type(image).__name__}"
        + ("; open encoded bytes with PIL.Image.open(io.BytesIO(data))" if _encoded(image) else "")
    )


def is_url(value: object) -> TypeGuard[str]:
    """Whether a value is a text that begins like a URL of the web."""
    return isinstance(value, str) and _URL.match(value) is not None


def _from_url(url: str) -> Tensor:
    content = fetch(url, most=MAX_DOWNLOAD)
    try:
        return decode_image(content, url, upright=True)
    except BrokenImageError:
        if _WEB_PAGE.match(content):
            raise BrokenImageError(
                f"{url}: expected an image, got a web page; give the URL of the image itself"
            ) from None
        if container_of(content):
            raise BrokenImageError(f"{url}: expected an image, got a video; download it and give the file") from None
        raise


def _from_file(path: Path) -> Tensor:
    if path.is_dir():
        raise BrokenImageError(
            f"{path}: expected an image, got a folder; `dcn predict` and `Predictor.stream` take the images in it"
        )
    try:
        return read_image(path, upright=True)
    except BrokenImageError:
        if is_video(path):
            raise BrokenImageError(
                f"{path}: expected an image, got a video; `dcn predict` and `Predictor.stream` take videos whose names "
                "end like one, such as .mp4"
            ) from None
        raise


def _from_array(image: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
    shape = "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
    if image.dtype.kind not in "uifb" or image.dtype in (np.uint16, np.uint32, np.uint64, np.longdouble):
        raise ValueError(f"images: expected an array of uint8 or floating point, got {image.dtype}")
    plain = np.ascontiguousarray(image)
    if plain.dtype.byteorder not in "=|":
        plain = plain.astype(plain.dtype.newbyteorder("="))
    if not plain.flags.writeable:  # such as np.asarray of a PIL image, about which torch would warn
        plain = plain.copy()
    tensor = torch.from_numpy(plain)
    if tensor.ndim == 2:
        tensor = tensor[..., None]
    return _from_channels(tensor.movedim(-1, 0) if tensor.ndim == 3 else tensor, image, "an array", shape)


def _from_channels(tensor: Tensor, given: Any, kind: str, shape: str) -> Tensor:
    """``[C, H, W]`` of any accepted type to ``[3, H, W]`` uint8."""
    if tensor.ndim != 3 or tensor.shape[0] not in CHANNELS or 0 in tensor.shape:
        raise ValueError(
            f"images: expected {kind} {shape}, got shape {list(given.shape)} of {given.dtype}"
            + ("; a batch is given as a list of images" if tensor.ndim == 4 else "")
            + ("; the channels are last in an array, first in a tensor" if set(given.shape) & {1, 3, 4} else "")
        )
    values = _bytes(tensor.detach().cpu())[:3]
    return values.expand(3, -1, -1).contiguous()


def _bytes(values: Tensor) -> Tensor:
    if values.dtype == torch.uint8:
        return values
    if not values.is_floating_point():
        raise ValueError(
            f"images: expected values of type uint8 in 0..255 or floating point in 0..1, got {values.dtype}"
        )
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"images: expected floating point values in 0..1, got {low:g}..{high:g}; convert values in 0..255 to uint8"
        )
    return (values.float() * 255).round().to(torch.uint8)
