"""How far deformable convolutions move their taps: statistics and heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dcn.vis.canvas import draw_marker, line_width, to_picture, to_tensor
from dcn.vis.palette import shades
from dcn.vis.recording import LayerOffsets


@dataclass(frozen=True)
class OffsetStatistics:
    """How far one layer moves its taps, over all units, taps and groups.

    Attributes:
        layer: its name.
        mean: mean length of the offsets, in units of the layer's input map.
        largest: the greatest length, in the same units.
        mean_pixels: mean length in image pixels.
        counts: ``[B]`` how many lengths fall into each of B equal bins from 0 to ``largest``.
        edges: ``[B + 1]`` the bins' limits, in units.
    """

    layer: str
    mean: float
    largest: float
    mean_pixels: float
    counts: Tensor
    edges: Tensor


def offset_statistics(layers: Sequence[LayerOffsets], bins: int = 32) -> list[OffsetStatistics]:
    """How far each layer moves its taps; all zero means that a layer is still an ordinary convolution."""
    return [_statistics(layer, bins) for layer in layers]


def offset_heatmap(image: Tensor, layer: LayerOffsets, *, arrows: bool = True, opacity: float = 0.55) -> Tensor:
    """How far one layer moves its taps at each location, as colour over the image in grey.

    The colour is the mean length of the offsets over taps and groups, dark for none, light for the largest in this
    image; arrows show the mean shift of all taps (a shift of the whole kernel), in image pixels where that can be
    seen and longer by one common factor where it cannot.

    Args:
        image: ``[3, H, W]`` uint8, the one that the layer was recorded with.
        layer: from `record_offsets`.
        arrows: draw them.
        opacity: 0..1, of the colours over the image.

    Returns:
        ``[3, H, W]`` uint8.
    """
    picture = to_picture(image)
    lengths = layer.offset.norm(dim=2).mean((0, 1))
    scaled = lengths / lengths.max().clamp(min=1e-12)
    colors = shades("inferno", scaled)
    over = _spread(Image.fromarray(colors), layer, picture.size)
    picture = Image.blend(picture.convert("L").convert("RGB"), over, opacity)
    if arrows:
        _draw_arrows(picture, layer)
    return to_tensor(picture)


def _statistics(layer: LayerOffsets, bins: int) -> OffsetStatistics:
    lengths = layer.offset.norm(dim=2)
    pixels = (layer.offset * torch.tensor(layer.input_grid.stride).reshape(1, 1, 2, 1, 1)).norm(dim=2)
    largest = float(lengths.max())
    counts, edges = torch.histogram(lengths.flatten(), bins, range=(0.0, max(largest, 1e-12)))
    return OffsetStatistics(layer.name, float(lengths.mean()), largest, float(pixels.mean()), counts.long(), edges)


def _spread(small: Image.Image, layer: LayerOffsets, size: tuple[int, int]) -> Image.Image:
    """A map of the layer's output as a picture of the image's size, each unit centred where it lies."""
    grid = layer.output_grid
    # transform() asks, for each pixel of the picture, for the location in the map; both count from pixel edges.
    across = (1 / grid.stride[1], 0.0, 0.5 - (grid.origin[1] + 0.5) / grid.stride[1])
    down = (0.0, 1 / grid.stride[0], 0.5 - (grid.origin[0] + 0.5) / grid.stride[0])
    padded = Image.fromarray(np.pad(np.array(small), ((1, 1), (1, 1), (0, 0)), mode="edge"))
    matrix = (*across[:2], across[2] + 1, *down[:2], down[2] + 1)
    return padded.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _draw_arrows(picture: Image.Image, layer: LayerOffsets) -> None:
    """About sixteen arrows along the longer side."""
    draw = ImageDraw.Draw(picture)
    shift = layer.offset.mean((0, 1)) * torch.tensor(layer.input_grid.stride)[:, None, None]
    spacing = max(picture.size) / 16
    step = [max(1, round(spacing / stride)) for stride in layer.output_grid.stride]
    longest = float(shift.norm(dim=0).max())
    factor = 1.0 if longest == 0 or 0.4 * spacing < longest < 2 * spacing else spacing / longest
    width = line_width(picture.size)
    for row in range(step[0] // 2, shift.shape[1], step[0]):
        for column in range(step[1] // 2, shift.shape[2], step[1]):
            y, x = (layer.output_grid.to_image(torch.tensor([row, column]).float()) + 0.5).tolist()
            dy, dx = (shift[:, row, column] * factor).tolist()
            _draw_arrow(draw, (x, y), (x + dx, y + dy), width)


def _draw_arrow(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], width: int) -> None:
    """A line with a head; a dot where it is shorter than the head."""
    vector = np.subtract(end, start)
    length = float(np.hypot(*vector))
    head = 3.5 * width
    if length < head:
        draw_marker(draw, *start, 0.6 * width, (255, 255, 255))
        return
    along = vector / length * head
    side = np.array([-along[1], along[0]]) / 2
    tip = np.array(end)
    draw.line([start, tuple(tip - along / 2)], fill=(255, 255, 255), width=width)
    draw.polygon([tuple(tip), tuple(tip - along + side), tuple(tip - along - side)], fill=(255, 255, 255))
