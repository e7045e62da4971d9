"""Where deformable convolutions look: sampling points traced into the image.

The picture of figure 6 of "Deformable Convolutional Networks" (Dai et al., ICCV 2017): the 3 x 3 taps of one unit,
each of them the unit of the deformable layer below, and so on: 9, 81, 729 points for three layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from PIL import ImageDraw
from torch import Tensor

from dcn.vis.canvas import draw_marker, line_width, to_picture, to_tensor
from dcn.vis.palette import Color, mix, shades
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

    def enlarged(self, factor: float) -> SamplingPoints:
        """The same points in a picture of the image that is enlarged by a factor."""
        levels = tuple(replace(level, points=level.points * factor) for level in self.levels)
        return SamplingPoints((self.center[0] * factor, self.center[1] * factor), levels)


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
    colors = shades("viridis", level.weights / level.weights.max().clamp(min=1e-12))
    shown = level.inside & (level.points >= 0).all(1) & (level.points < torch.tensor(size)).all(1)
    for i in shown.nonzero()[:, 0].tolist():
        x, y = level.points[i].tolist()
        r, g, b = (int(v) for v in colors[i])
        color = _LEVEL_COLORS[min(depth, len(_LEVEL_COLORS) - 1)] if color_by == "level" else (r, g, b)
        draw_marker(draw, x, y, radius, color, mix(color, (0, 0, 0), 0.5))
