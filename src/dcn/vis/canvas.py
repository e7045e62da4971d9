"""From image tensors to Pillow's pictures and back, and sizes of lines and letters that fit a picture."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dcn.vis.fonts import picture_font
from dcn.vis.palette import Color


def to_picture(image: Tensor) -> Image.Image:
    """A Pillow RGB picture of an image tensor ``[3, H, W]`` uint8; ValueError for anything else."""
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or not image.numel():
        raise ValueError(f"image: expected [3, H, W] uint8 (RGB), got {list(image.shape)} {image.dtype}")
    return Image.fromarray(image.detach().cpu().permute(1, 2, 0).contiguous().numpy())


def to_tensor(picture: Image.Image) -> Tensor:
    """An image tensor ``[3, H, W]`` uint8 of a Pillow picture."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def line_width(size: tuple[int, int]) -> int:
    """Pixels of a line that is seen but hides little, in a picture of ``(width, height)``: 1 at 250, 4 at 1000."""
    return max(1, round(sum(size) / 2 / 250))


def font_size(size: tuple[int, int]) -> int:
    """Pixels of a letter that can be read in a picture of ``(width, height)``: 9 when small, 22 at 1000 pixels."""
    return min(40, max(9, round(4 + sum(size) / 2 * 0.018)))


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and line height in pixels of one line of text."""
    chosen = picture_font(size, text)
    ascent, descent = chosen.getmetrics()
    return round(chosen.getlength(text)), ascent + descent


def fit_text(text: str, size: int, width: int) -> str:
    """The text, cut to at most ``width`` pixels; the cut is marked by an ellipsis; empty if not even that fits."""
    if text_size(text, size)[0] <= width:
        return text
    for end in range(len(text) - 1, 0, -1):
        if text_size(text[:end].rstrip() + "…", size)[0] <= width:
            return text[:end].rstrip() + "…"
    return ""


def draw_marker(
    draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color, rim: Color = (0, 0, 0)
) -> None:
    """A filled disc with a thin rim, centred at continuous pixel coordinates (0 is the left edge of the picture)."""
    box = (x - 0.5 - radius, y - 0.5 - radius, x - 0.5 + radius, y - 0.5 + radius)
    draw.ellipse(box, fill=color, outline=rim if radius >= 1.5 else None)
