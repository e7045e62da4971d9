"""Semantic segmentations: overlays for the eye, and index PNGs for tools and evaluation servers."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dcn.class_names import IGNORE
from dcn.vis.canvas import font_size, text_size, to_picture, to_tensor
from dcn.vis.fonts import picture_font
from dcn.vis.palette import Color, text_color, voc_palette


def color_map(labels: Tensor, palette: Sequence[Color]) -> Tensor:
    """A picture ``[3, H, W]`` uint8 of a segmentation map ``[H, W]`` (0..255), in the colours of the palette."""
    return torch.tensor(list(palette), dtype=torch.uint8)[_checked(labels, len(palette))].permute(2, 0, 1).contiguous()


def draw_segmentation(
    image: Tensor,
    labels: Tensor,
    palette: Sequence[Color] | None = None,
    classes: Sequence[str] | None = None,
    *,
    ignore_index: int | None = IGNORE,
    opacity: float = 0.5,
) -> Tensor:
    """Blend a segmentation map into an image, with dark lines between the regions and a legend below.

    Args:
        image: ``[3, H, W]`` uint8.
        labels: ``[H, W]``, any integer type, 0..255.
        palette: 256 colours; ``None``: `dcn.vis.voc_palette`.
        classes: names by label; the legend names those that occur. ``None``: no legend, the image keeps its size.
        ignore_index: pixels of this label show the image itself; ``None`` colours all.
        opacity: 0..1 of the colours.

    Returns:
        ``[3, H', W]`` uint8; H' > H with a legend.
    """
    if tuple(labels.shape) != tuple(image.shape[-2:]):
        raise ValueError(f"labels: expected the size of the image {list(image.shape[-2:])}, got {list(labels.shape)}")
    colors = list(palette) if palette is not None else voc_palette()
    picture = to_picture(image)
    shown = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    safe = torch.where(shown, labels, 0)
    blend = torch.where(shown, opacity, 0.0).cpu()
    mixed = image.cpu() * (1 - blend) + color_map(safe, colors) * blend
    mixed[:, _borders(labels.cpu())] *= 0.4
    picture = Image.fromarray(mixed.round().byte().permute(1, 2, 0).numpy())
    if classes is None:
        return to_tensor(picture)
    present = [i for i in torch.unique(labels[shown]).tolist() if i < len(classes)]
    return to_tensor(_with_legend(picture, [(classes[i], colors[i]) for i in present]))


def write_index_png(path: str | PathLike[str], labels: Tensor, palette: Sequence[Color]) -> None:
    """Write a segmentation map ``[H, W]`` (0..255) as an 8-bit PNG with palette: the pixel values are the labels.

    The form of Pascal VOC's SegmentationClass files (`dcn.vis.voc_palette`); with `dcn.vis.cityscapes_palette` for
    training ids.
    """
    picture = Image.fromarray(_checked(labels, 256).to(torch.uint8).numpy())
    picture.putpalette([channel for color in palette for channel in color])
    picture.save(path, format="PNG", optimize=True)


def _checked(labels: Tensor, colors: int) -> Tensor:
    """The map on the CPU as int64; ValueError if it is no map or holds a label without a colour."""
    if labels.ndim != 2 or labels.is_floating_point():
        raise ValueError(f"labels: expected [H, W] of integers, got {list(labels.shape)} {labels.dtype}")
    low, high = (int(labels.min()), int(labels.max())) if labels.numel() else (0, 0)
    if low < 0 or high >= colors:
        raise ValueError(f"labels: expected 0..{colors - 1} (the palette has {colors} colours), got {low}..{high}")
    return labels.detach().cpu().long()


def _borders(labels: Tensor) -> Tensor:
    """``[H, W]`` bool: pixels whose right or lower neighbour has another label."""
    edge = torch.zeros(labels.shape, dtype=torch.bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def _with_legend(picture: Image.Image, entries: Sequence[tuple[str, Color]]) -> Image.Image:
    """The picture with coloured plates below, in as many rows as they need."""
    letters = font_size(picture.size)
    height = text_size("Ag", letters)[1] + 4
    locations: list[tuple[int, int, int]] = []
    x, y = 0, 0
    for name, _ in entries:
        width = min(picture.width, text_size(name, letters)[0] + letters)
        if x and x + width > picture.width:
            x, y = 0, y + height
        locations.append((x, picture.height + y, width))
        x += width + 2
    sheet = Image.new("RGB", (picture.width, picture.height + (y + height if entries else 0)), (255, 255, 255))
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for (name, color), (left, top, width) in zip(entries, locations, strict=True):
        draw.rectangle((left, top + 2, left + width - 1, top + height - 1), fill=color)
        draw.text((left + width / 2, top + 3), name, text_color(color), picture_font(letters, name), anchor="ma")
    return sheet
