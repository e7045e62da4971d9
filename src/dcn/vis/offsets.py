"""Where deformable convolutions look: sampling points traced into the image, and the size of the offsets.

The picture of figure 6 of "Deformable Convolutional Networks" (Dai et al., ICCV 2017): the 3 x 3 taps of one unit,
each of them the unit of the deformable layer below, and so on: 9, 81, 729 points for three layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dcn.vis.canvas import draw_marker, line_width, to_picture, to_tensor
from dcn.vis.palette import Color, mix
from dcn.vis.recording import LayerOffsets

# From the unit outwards: levels are told apart by lightness and size as well as by hue.
_LEVEL_COLORS: tuple[Color, ...] = ((255, 233, 70), (255, 140, 0), (225, 25, 45), (150, 30, 110), (80, 30, 120))
_CENTER_COLOR: Color = (0, 190, 120)


@dataclass(frozen=True)
class PointLevel:
    """The points of one depth, K times as many as those of the depth before.

    Attributes:
        layer: name of the deformable layer whose taps these are.
        points: ``[P, 2]`` (x, y) in continuous pixels of the image (like box corners).
        weights: ``[P]``, product of the modulation masks on the way; ones without modulation.
        inside: ``[P]`` bool: the tap, and all before it, read something: it is not in the zero padding.
    """

    layer: str
    points: Tensor
    weights: Tensor
    inside: Tensor


@dataclass(frozen=True)
class SamplingPoints:
    """What one unit of the last layer is computed from.

    Attributes:
        center: (x, y) of the unit in continuous pixels of the image.
        levels: one entry a layer, the last layer of the model first.
    """

    center: tuple[float, float]
    levels: tuple[PointLevel, ...]


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


def sampling_points(
    layers: Sequence[LayerOffsets], position: tuple[float, float], *, levels: int = 3, group: int = 0
) -> SamplingPoints:
    """Trace the taps of one unit back through the last deformable layers.

    A tap at a fractional location of a map reads a mixture of up to four units of the layer below, each with taps of
    its own; here it is followed as one, with the offsets (and masks) of that layer interpolated bilinearly at its
    location. A tap outside its map contributes nothing: it is marked, and followed from the nearest location inside so
    that every point keeps its number. Point ``t`` of a level has the taps ``t*K .. t*K + K-1`` in the next. Between two
    layers only the maps' locations in the image count (plain convolutions are followed through their centre).

    Args:
        layers: from `record_offsets`, all of a model or a chosen few, in the order in which they ran.
        position: (x, y) in continuous pixels of the image; the nearest unit of the last layer is taken.
        levels: how many layers to trace, from the last one back; fewer if there are fewer.
        group: the offset group to follow in every layer; a layer with fewer groups uses its last one.
    """
    if not layers or levels < 1 or group < 0:
        raise ValueError(f"layers: expected one or more, levels >= 1, group >= 0, got {len(layers)}, {levels}, {group}")
    chain = list(reversed(layers))[:levels]
    grid = chain[0].output_grid
    limits = torch.tensor(grid.size, dtype=torch.float32) - 1
    start = grid.from_image(torch.tensor([position[1], position[0]]) - 0.5).round()
    start = torch.minimum(start.clamp(min=0), limits)
    image_positions = grid.to_image(start)[None]
    weights, inside = torch.ones(1), torch.ones(1, dtype=torch.bool)
    traced = []
    for layer in chain:
        image_positions, weights, inside = _step(layer, image_positions, weights, inside, group)
        traced.append(PointLevel(layer.name, image_positions.flip(1) + 0.5, weights, inside))
    center = grid.to_image(start) + 0.5
    return SamplingPoints((float(center[1]), float(center[0])), tuple(traced))


def draw_sampling_points(
    image: Tensor, points: SamplingPoints | Sequence[SamplingPoints], *, color_by: Literal["level", "weight"] = "level"
) -> Tensor:
    """Draw the sampling points of one or several units into a copy of an image.

    The unit is a green disc with a white rim. Its taps are yellow, theirs orange, then red, each smaller than those
    before; or, by weight, from dark (0) to light (the greatest of its level). Points outside the image or in the
    padding are left out.

    Args:
        image: ``[3, H, W]`` uint8, the one that the points were traced in.
        points: from `sampling_points`.
        color_by: what the colours show.

    Returns:
        ``[3, H, W]`` uint8.
    """
    if color_by not in ("level", "weight"):
        raise ValueError(f"color_by: expected 'level' or 'weight', got {color_by!r}")
    picture = to_picture(image)
    draw = ImageDraw.Draw(picture)
    units = [points] if isinstance(points, SamplingPoints) else list(points)
    base = line_width(picture.size)
    for unit in units:
        for depth in reversed(range(len(unit.levels))):
            radius = base * (2.6 - 0.8 * min(depth, 2))
            _draw_level(draw, unit.levels[depth], depth, radius, picture.size, color_by)
        draw_marker(draw, *unit.center, 3.4 * base, (255, 255, 255))
        draw_marker(draw, *unit.center, 2.4 * base, _CENTER_COLOR)
    return to_tensor(picture)


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
    colors = _shades("inferno", scaled)
    over = _spread(Image.fromarray(colors), layer, picture.size)
    picture = Image.blend(picture.convert("L").convert("RGB"), over, opacity)
    if arrows:
        _draw_arrows(picture, layer)
    return to_tensor(picture)


def _step(
    layer: LayerOffsets, positions: Tensor, weights: Tensor, inside: Tensor, group: int
) -> tuple[Tensor, Tensor, Tensor]:
    """From P locations ``[P, 2]`` (y, x; image index coordinates) to the P*K that the layer reads for them."""
    group = min(group, layer.offset.shape[0] - 1)
    units = layer.output_grid.from_image(positions)
    offset = _lookup(layer.offset[group].flatten(0, 1), units).reshape(len(units), -1, 2)
    mask = _lookup(layer.mask[group], units)
    start = units * torch.tensor(layer.stride) - torch.tensor(layer.padding)
    taps = start[:, None] + _kernel(layer)[None] + offset
    size = torch.tensor(layer.input_grid.size)
    # With zero padding (v2) a tap less than one unit outside still reads a share of the first row or column.
    reads = (((taps >= 0) if layer.boundary == "v1" else (taps > -1)) & (taps < size)).all(2)
    image_positions = layer.input_grid.to_image(taps).flatten(0, 1)
    return image_positions, (weights[:, None] * mask).flatten(), (inside[:, None] & reads).flatten()


def _kernel(layer: LayerOffsets) -> Tensor:
    """``[K, 2]`` (y, x): locations of the taps relative to the first, row by row."""
    rows = torch.arange(layer.kernel_size[0]) * layer.dilation[0]
    columns = torch.arange(layer.kernel_size[1]) * layer.dilation[1]
    return torch.cartesian_prod(rows, columns).float()


def _lookup(values: Tensor, positions: Tensor) -> Tensor:
    """Bilinear values ``[P, C]`` of a map ``[C, H, W]`` at positions ``[P, 2]`` (y, x), clamped to the map."""
    size = torch.tensor(values.shape[1:])
    clamped = torch.minimum(positions.clamp(min=0), (size - 1).float())
    low = clamped.floor().long()
    high = torch.minimum(low + 1, size - 1)
    dy, dx = (clamped - low).T[:, None]
    top = values[:, low[:, 0], low[:, 1]] * (1 - dx) + values[:, low[:, 0], high[:, 1]] * dx
    bottom = values[:, high[:, 0], low[:, 1]] * (1 - dx) + values[:, high[:, 0], high[:, 1]] * dx
    return (top * (1 - dy) + bottom * dy).T


def _draw_level(
    draw: ImageDraw.ImageDraw, level: PointLevel, depth: int, radius: float, size: tuple[int, int], color_by: str
) -> None:
    shades = _shades("viridis", level.weights / level.weights.max().clamp(min=1e-12))
    shown = level.inside & (level.points >= 0).all(1) & (level.points < torch.tensor(size)).all(1)
    for i in shown.nonzero()[:, 0].tolist():
        x, y = level.points[i].tolist()
        r, g, b = (int(v) for v in shades[i])
        color = _LEVEL_COLORS[min(depth, len(_LEVEL_COLORS) - 1)] if color_by == "level" else (r, g, b)
        draw_marker(draw, x, y, radius, color, mix(color, (0, 0, 0), 0.5))


def _shades(name: str, values: Tensor) -> npt.NDArray[np.uint8]:
    """RGB ``[..., 3]`` of values 0..1 in one of matplotlib's scales."""
    import matplotlib as mpl

    return (mpl.colormaps[name](values.numpy())[..., :3] * 255).round().astype(np.uint8)


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
