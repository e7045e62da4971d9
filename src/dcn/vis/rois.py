"""The parts of a deformable RoI pooling: where the bins of a region lie, and where their offsets move them.

Figure 7 of "Deformable Convolutional Networks" (Dai et al., ICCV 2017).
"""

from __future__ import annotations

import torch
from PIL import ImageDraw
from torch import Tensor

from dcn.vis.canvas import line_width, to_picture, to_tensor
from dcn.vis.palette import Color, mix

_REGION: Color = (86, 180, 233)
_PART: Color = (230, 80, 0)
_GREY: Color = (200, 200, 200)


def roi_parts(
    box: Tensor, offset: Tensor, *, bins: tuple[int, int] | None = None, gamma: float = 0.1
) -> tuple[Tensor, Tensor]:
    """The bins of one region before and after their offsets (paper, section 2.2).

    Args:
        box: ``[4]`` xyxy in continuous pixels.
        offset: ``[2, P_h, P_w]``, for each part the shift (**x first**, then y: the order of the RoI operators,
            not that of the convolution) as a share of the region's size before ``gamma``.
        bins: (vertical, horizontal) number of bins if it differs from the number of parts; a bin moves with the part
            ``floor(bin * parts / bins)`` it lies in.
        gamma: the factor of the operator (``trans_std`` of the original one).

    Returns:
        Two ``[bins_h * bins_w, 4]`` tensors of xyxy boxes, row by row.
    """
    if box.shape != (4,) or offset.ndim != 3 or offset.shape[0] != 2:
        raise ValueError(
            f"offset: expected box [4] and offset [2, P_h, P_w], got {list(box.shape)}, {list(offset.shape)}"
        )
    box, offset = box.detach().float().cpu(), offset.detach().float().cpu()
    rows, columns = bins or (offset.shape[1], offset.shape[2])
    size = box[2:] - box[:2]
    step = size / torch.tensor([columns, rows])
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    start = box[:2] + torch.stack((x, y), 2).flatten(0, 1) * step
    before = torch.cat((start, start + step), 1)
    part_y, part_x = y.flatten() * offset.shape[1] // rows, x.flatten() * offset.shape[2] // columns
    shift = offset[:, part_y, part_x].T * gamma * size
    return before, before + shift.repeat(1, 2)


def draw_roi_parts(
    image: Tensor,
    box: Tensor,
    offset: Tensor,
    *,
    bins: tuple[int, int] | None = None,
    gamma: float = 0.1,
    weights: Tensor | None = None,
) -> Tensor:
    """Draw a region (blue), its parts where their offsets move them (orange), and how far each was moved (grey).

    Args:
        image: ``[3, H, W]`` uint8.
        box: as in `roi_parts`, like ``offset``, ``bins`` and ``gamma``.
        offset: see there.
        bins: see there.
        gamma: see there.
        weights: ``[bins_h, bins_w]`` in 0..1: the modulation of each bin; light bins are drawn darker.

    Returns:
        ``[3, H, W]`` uint8.
    """
    before, after = roi_parts(box, offset, bins=bins, gamma=gamma)
    if weights is not None and weights.numel() != len(before):
        raise ValueError(f"weights: expected one for each of {len(before)} bins, got {list(weights.shape)}")
    return draw_parts(image, box, before, after, weights=weights)


def draw_parts(image: Tensor, box: Tensor, before: Tensor, after: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """The picture of :func:`draw_roi_parts` from the parts themselves.

    Args:
        image: ``[3, H, W]`` uint8.
        box: ``[4]``, the region.
        before: ``[parts, 4]`` from :func:`roi_parts`.
        after: likewise.
        weights: the modulation, one number for each part in 0..1.

    Returns:
        ``[3, H, W]`` uint8.
    """
    shares = [1.0] * len(before) if weights is None else weights.flatten().tolist()
    picture = to_picture(image)
    draw = ImageDraw.Draw(picture)
    width = line_width(picture.size)
    _outline(draw, box.tolist(), _REGION, 2 * width)
    for old, new, share in zip(before, after, shares, strict=True):
        _outline(draw, new.tolist(), mix((60, 60, 60), _PART, share), width)
        draw.line([*_middle(old), *_middle(new)], fill=_GREY, width=width)
        x, y = _middle(new)
        draw.rectangle((x - width, y - width, x + width, y + width), fill=_PART)
    return to_tensor(picture)


def _outline(draw: ImageDraw.ImageDraw, box: list[float], color: Color, width: int) -> None:
    x1, y1, x2, y2 = (round(v) for v in box)
    draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=width)


def _middle(box: Tensor) -> tuple[float, float]:
    x1, y1, x2, y2 = box.tolist()
    return (x1 + x2) / 2 - 0.5, (y1 + y2) / 2 - 0.5
