"""Where the samples of every bin of every RoI lie: one description for all backends.

RoIAlign, both position-sensitive poolings and both deformable poolings are the same sum: a bin's value is the mean of
samples on a small grid of rows x columns. They differ in how a RoI is rounded, where the grid lies, which samples count
and which channels a bin reads. :class:`RoiRule` names those choices and :func:`build` turns them into coordinates; a
backend then reads the map there. Integer cells (position-sensitive RoI pooling) are samples at whole coordinates.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Form = Literal["align", "half_pixel", "cells_first", "cells_after", "parts"]
FORMS: tuple[str, ...] = get_args(Form)

_MOST_SAMPLES = 2.0**24
"""Samples per bin and axis are counted in float32, which holds whole numbers up to here."""


class RoiRule(NamedTuple):
    """What distinguishes one RoI pooling from another.

    Attributes:
        form: ``"align"`` (RoIAlign, RoI at least 1 x 1), ``"half_pixel"`` (RoIAlign moved by half a pixel, no least
            size), ``"cells_first"`` (whole cells, corners rounded before scaling, R-FCN), ``"cells_after"`` (rounded
            after scaling, torchvision), ``"parts"`` (deformable position-sensitive RoI pooling of the paper's code).
        output_size: bins ``(rows, columns)``.
        group: ``(rows, columns)`` of channel groups; ``(1, 1)``: every bin reads every channel.
        spatial_scale: map pixels per box pixel.
        samples: samples per bin and axis; 0 or less: about one per map pixel (``align`` and ``half_pixel`` only).
        gamma: the offset's unit as a share of the RoI's size (the papers' gamma or ``trans_std``).
    """

    form: Form
    output_size: tuple[int, int]
    group: tuple[int, int]
    spatial_scale: float
    samples: int
    gamma: float


class Axis(NamedTuple):
    """The samples of every bin along one axis: ``origin + i * step`` for ``i < many`` (``R`` RoIs).

    Attributes:
        origin: ``[R, 1 or K, P or 1, 1 or Q]`` with ``K`` offset classes, map pixels (0 is the centre of the first).
        step: ``[R]``.
        many: int64 in the shape of ``origin``; 0 for a RoI that is not valid.
    """

    origin: Tensor
    step: Tensor
    many: Tensor


class Grid(NamedTuple):
    """Where the samples lie.

    Attributes:
        image: ``[R]`` int64, image of the RoI, always a valid index.
        rows: samples down, ``P`` bins (``Q`` axis of length 1 unless bins move one by one).
        columns: samples across, ``Q`` bins.
        margin: a sample counts when it lies at most so far outside the centres of the map's first and last pixel, and
            is then held at them.
        scale: ``[R, 1, 1, 1]`` or ``[R, 1, P, Q]``, what the sum of a bin's samples is multiplied by; ``None``: one
            over the number that count.
        sizes: ``[R, 2]`` height and width of the RoI on the map.
        flat: whether the slope at a whole coordinate is 0 (otherwise it is the slope to the right of it).
        classes: ``K``.
    """

    image: Tensor
    rows: Axis
    columns: Axis
    margin: float
    scale: Tensor | None
    sizes: Tensor
    flat: bool
    classes: int


def check_images(images: int, boxes: Tensor) -> None:
    """Refuse an image index that does not exist. On the CPU only: elsewhere it would wait for the device.

    Raises:
        ValueError: an index below 0, at or above the number of images, or NaN.
    """
    if boxes.device.type != "cpu" or not boxes.shape[0]:
        return
    low, high = (float(v) for v in boxes[:, 0].aminmax())
    if not (low >= 0 and high < images):
        raise ValueError(
            f"boxes: expected image indices in 0..{images - 1} in column 0, got values from {low:g} to {high:g}"
        )


def part_index(bins: int, parts: int, device: torch.device) -> Tensor:
    """``[bins]`` int64: the part of each bin, ``floor(p / bins * parts)`` in float32 as the published code has it."""
    index = torch.arange(bins, device=device, dtype=torch.float32) / bins * parts
    return index.floor().long().clamp(0, parts - 1)


def group_index(bins: int, groups: int, device: torch.device) -> Tensor:
    """``[bins]`` int64: the channel group of each bin, ``floor(p * groups / bins)``."""
    return torch.arange(bins, device=device) * groups // bins


def round_half_away(values: Tensor) -> Tensor:
    """C's ``round``: halves go away from zero (``torch.round`` takes them to even numbers)."""
    whole = values.trunc()
    return whole + torch.where((values - whole).abs() >= 0.5, values.sign(), 0.0)


def build(rule: RoiRule, size: tuple[int, int, int], boxes: Tensor, offset: Tensor | None) -> Grid:
    """The grid of a call.

    Args:
        rule: which pooling.
        size: images, height and width of the map.
        boxes: ``[R, 5]``: image, x1, y1, x2, y2, in float32 or float64. A RoI with NaN, infinity or an image that does
            not exist has no sample at all.
        offset: ``[R, 2*K, parts, parts]`` x and y per class, in the type of ``boxes``, or ``None``.
    """
    images, *extent = size
    start, sizes = _corners(rule, boxes[:, 1:])
    finite = torch.isfinite(torch.cat((boxes, start, sizes), 1)).all(1)
    valid = finite & (boxes[:, 0] >= 0) & (boxes[:, 0] < images)
    start, sizes = torch.where(valid[:, None], start, 0.0), torch.where(valid[:, None], sizes, 0.0)
    shifts = (None, None) if offset is None else _shifts(rule, offset, sizes)
    rows, many_rows = _axis(rule, 0, extent[0], start, sizes, shifts[0], valid)
    columns, many_columns = _axis(rule, 1, extent[1], start, sizes, shifts[1], valid)
    return Grid(
        image=torch.where(valid, boxes[:, 0], 0.0).long(),
        rows=rows,
        columns=columns,
        margin={"parts": 0.5, "align": 1.0, "half_pixel": 1.0}.get(rule.form, 0.0),
        scale=None if rule.form == "parts" else 1 / (many_rows * many_columns).clamp(min=1),
        sizes=sizes,
        flat=rule.form not in ("align", "half_pixel"),
        classes=1 if offset is None else offset.shape[1] // 2,
    )


def locations(axis: Axis, extent: int, margin: float) -> Tensor:
    """All samples of an axis ``[*origin.shape, most]``, held on the map, or -1 where there is none that counts."""
    most = int(axis.many.max()) if axis.many.numel() else 0
    steps = torch.arange(most, device=axis.origin.device)
    location = axis.origin[..., None] + steps * axis.step.view(-1, 1, 1, 1, 1)
    inside = (steps < axis.many[..., None]) & (location >= -margin) & (location <= extent - 1 + margin)
    # Not clamp(min=0): its gradient at 0 would be 1, and a sample that was held there does not move.
    held = torch.where(inside & (location > 0), location, 0.0).clamp(max=extent - 1)
    return torch.where(inside, held, -1.0)


def _corners(rule: RoiRule, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Start and size ``[R, 2]`` (y, x) of the RoIs on the map."""
    low, high, scale = boxes[:, [1, 0]], boxes[:, [3, 2]], rule.spatial_scale
    if rule.form == "align":
        start = low * scale
        return start, (high * scale - start).clamp(min=1.0)
    if rule.form == "half_pixel":
        start = low * scale - 0.5
        return start, high * scale - 0.5 - start
    if rule.form == "cells_after":
        start = round_half_away(low * scale)
        return start, (round_half_away(high * scale) - start).clamp(min=1.0)
    shift = 0.5 if rule.form == "parts" else 0.0
    start = round_half_away(low) * scale - shift
    return start, ((round_half_away(high) + 1) * scale - shift - start).clamp(min=0.1)


def _shifts(rule: RoiRule, offset: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """How far each bin moves, ``[R, K, P, Q]`` map pixels down and right. Offsets are stored x first, then y."""
    pairs = offset.unflatten(1, (-1, 2))
    rows = part_index(rule.output_size[0], offset.shape[2], offset.device)
    columns = part_index(rule.output_size[1], offset.shape[3], offset.device)
    moves = pairs.index_select(3, rows).index_select(4, columns) * rule.gamma
    return moves[:, :, 1] * sizes[:, 0, None, None, None], moves[:, :, 0] * sizes[:, 1, None, None, None]


def offset_gradient(shifts: Tensor, sizes: Tensor, offset: Tensor, rule: RoiRule) -> Tensor:
    """The gradient of ``offset`` from that of the bins' shifts ``[R, K, P, Q, 2]`` (right, down; map pixels)."""
    moves = shifts.permute(0, 1, 4, 2, 3) * (sizes.flip(1) * rule.gamma).view(-1, 1, 2, 1, 1)
    result = moves.new_zeros(*moves.shape[:3], offset.shape[2], moves.shape[4])
    result = result.index_add(3, part_index(moves.shape[3], offset.shape[2], moves.device), moves)
    columns = moves.new_zeros(*result.shape[:4], offset.shape[3])
    columns = columns.index_add(4, part_index(moves.shape[4], offset.shape[3], moves.device), result)
    return columns.reshape(offset.shape)


def _axis(
    rule: RoiRule, axis: int, extent: int, start: Tensor, sizes: Tensor, shift: Tensor | None, valid: Tensor
) -> tuple[Axis, Tensor]:
    """The samples of one axis, and how many of them (with those outside the map) a bin divides by."""
    bins = rule.output_size[axis]
    begin, bin_size = start[:, axis, None], sizes[:, axis, None] / bins
    index = torch.arange(bins, device=start.device, dtype=start.dtype)
    shape = (-1, 1, bins, 1) if axis == 0 else (-1, 1, 1, bins)
    valid = valid.view(-1, 1, 1, 1)
    if rule.form in ("cells_first", "cells_after"):
        low, high = (cell.view(shape) for cell in _cells(rule.form, begin, bin_size, index, extent))
        count = torch.where(valid, (high - low).clamp(min=0), 0.0)
        return Axis(low, torch.ones_like(start[:, 0]), count.long()), count
    origin = (begin + index * bin_size).view(shape)
    if shift is not None:
        origin = origin + shift
    if rule.form == "parts":
        # At the left edges of equal sub-bins.
        many = torch.full_like(bin_size, rule.samples)
        count = torch.where(valid, rule.samples, 0).expand(origin.shape)
        return Axis(origin, (bin_size / rule.samples)[:, 0], count), many.view(-1, 1, 1, 1)
    return _centred(origin, bin_size.view(-1, 1, 1, 1), rule.samples, extent, valid)


def _cells(form: Form, begin: Tensor, bin_size: Tensor, index: Tensor, extent: int) -> tuple[Tensor, Tensor]:
    """First cell and the one after the last ``[R, bins]`` of every bin."""
    if form == "cells_first":
        low, high, last = (index * bin_size + begin).floor(), ((index + 1) * bin_size + begin).ceil(), extent
    else:
        # torchvision's forward never reads the last row and column; its backward does. Here both follow the forward.
        low, high, last = (index * bin_size).floor() + begin, ((index + 1) * bin_size).ceil() + begin, extent - 1
    return low.clamp(0, last), high.clamp(0, last)


def _centred(origin: Tensor, bin_size: Tensor, samples: int, extent: int, valid: Tensor) -> tuple[Axis, Tensor]:
    """RoIAlign's samples, at the centres of equal sub-bins; those over a pixel outside are 0 but counted.

    With one sample per map pixel a RoI of a million pixels would have a million samples, of which only those on the
    map matter: sub-bins are then over half a pixel wide, so that ``2 * extent + 6`` of them reach across the map.
    """
    many = torch.full_like(bin_size, samples) if samples > 0 else bin_size.ceil().clamp(0, _MOST_SAMPLES)
    step = torch.where(many > 0, bin_size / many, 0.0)
    most = samples if samples > 0 else 2 * extent + 6
    first = (
        ((-1 - origin.detach()) / step - 0.5).floor().nan_to_num(0.0).clamp(min=0).minimum((many - most).clamp(min=0))
    )
    count = torch.where(valid, many.clamp(max=most), 0.0).long().expand(origin.shape)
    return Axis(origin + (first + 0.5) * step, step[:, 0, 0, 0], count), many
