"""mmcv's sampling of maps at points (PointRend), and the coordinates around it.

Coordinates are ``(x, y)``. Relative ones are 0 at the left upper border of what they are relative to and 1 at its right
lower border; absolute ones are pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcn import checks
from dcn.boxes import areas, sizes
from dcn.compat import _layers
from dcn.compat._layers import Refused, Size


def normalize(grid: Tensor) -> Tensor:
    """Coordinates from ``-1..1`` to ``0..1``."""
    return (grid + 1.0) / 2.0


def denormalize(grid: Tensor) -> Tensor:
    """Coordinates from ``0..1`` to ``-1..1``."""
    return grid * 2.0 - 1.0


def generate_grid(num_grid: int, size: Size, device: torch.device | str) -> Tensor:
    """The centres of ``rows x columns`` equal cells, relative: ``[num_grid, rows * columns, 2]`` float32."""
    rows, columns = _layers.pair("size", size)
    y = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) / rows
    x = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) / columns
    points = torch.stack((x.expand(rows, columns), y[:, None].expand(rows, columns)), 2)
    return points.reshape(1, -1, 2).expand(num_grid, -1, -1)


@torch.no_grad()
def rel_roi_point_to_abs_img_point(rois: Tensor, rel_roi_points: Tensor) -> Tensor:
    """Points in RoIs as pixels of the image, without gradients.

    Args:
        rois: ``[N, 4]`` (x1, y1, x2, y2) or ``[N, 5]`` with the image before.
        rel_roi_points: ``[N, P, 2]``, relative to their RoI.

    Returns:
        ``[N, P, 2]``.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    if rois.ndim != 2 or rois.shape[1] not in (4, 5):
        raise Refused(f"rois: expected [N, 4] or [N, 5], got shape {list(rois.shape)}")
    if rel_roi_points.ndim != 3 or rel_roi_points.shape[2] != 2 or len(rel_roi_points) != len(rois):
        raise Refused(f"rel_roi_points: expected [{len(rois)}, P, 2], got shape {list(rel_roi_points.shape)}")
    corners = rois[:, None, -4:]
    return rel_roi_points * sizes(corners) + corners[..., :2]


def abs_img_point_to_rel_img_point(
    abs_img_points: Tensor, img: tuple[int, int] | Tensor, spatial_scale: float = 1.0
) -> Tensor:
    """Points in pixels of an image, relative to a map of it.

    Args:
        abs_img_points: ``[N, P, 2]``.
        img: ``(height, width)`` of the map, or the map ``[N, C, H, W]``.
        spatial_scale: map pixels per image pixel.

    Returns:
        ``[N, P, 2]``.

    Raises:
        ValueError: (also an ``AssertionError``) ``img`` is neither.
    """
    if not (isinstance(img, tuple) and len(img) == 2) and not (isinstance(img, Tensor) and img.ndim == 4):
        raise Refused(f"img: expected (height, width) or a map [N, C, H, W], got {type(img).__name__}")
    height, width = img.shape[2:] if isinstance(img, Tensor) else img
    return abs_img_points / abs_img_points.new_tensor([width, height]) * spatial_scale


def rel_roi_point_to_rel_img_point(
    rois: Tensor, rel_roi_points: Tensor, img: tuple[int, int] | Tensor, spatial_scale: float = 1.0
) -> Tensor:
    """``mmcv.ops.rel_roi_point_to_rel_img_point``: points in RoIs, relative to a map.

    Args:
        rois: as :func:`rel_roi_point_to_abs_img_point`.
        rel_roi_points: ``[N, P, 2]``, relative to their RoI.
        img: as :func:`abs_img_point_to_rel_img_point`.
        spatial_scale: map pixels per box pixel.

    Returns:
        ``[N, P, 2]``, what :func:`point_sample` takes.
    """
    return abs_img_point_to_rel_img_point(rel_roi_point_to_abs_img_point(rois, rel_roi_points), img, spatial_scale)


def bilinear_grid_sample(im: Tensor, grid: Tensor, align_corners: bool = False) -> Tensor:
    """``[N, C, h, w]``: a map ``[N, C, H, W]`` at ``grid`` ``[N, h, w, 2]`` in ``-1..1``, 0 outside, bilinear."""
    return F.grid_sample(im, grid, align_corners=align_corners)


def point_sample(input: Tensor, points: Tensor, align_corners: bool = False, **kwargs: Any) -> Tensor:
    """``mmcv.ops.point_sample``: bilinear values of a map at points, 0 outside.

    Args:
        input: ``[N, C, H, W]``.
        points: relative to the map, ``[N, P, 2]`` or ``[N, h, w, 2]``.
        align_corners: whether 0 and 1 are the centres of the corner pixels instead of the border.
        kwargs: ``mode`` and ``padding_mode`` of ``torch.nn.functional.grid_sample``.

    Returns:
        ``[N, C, P]`` or ``[N, C, h, w]``.

    Raises:
        ValueError: (also an ``AssertionError``) ``points`` has other axes.
    """
    if points.ndim not in (3, 4) or points.shape[-1] != 2:
        raise Refused(f"points: expected [N, P, 2] or [N, h, w, 2] (x, y), got shape {list(points.shape)}")
    grid = denormalize(points if points.ndim == 4 else points[:, :, None])
    output = F.grid_sample(input, grid, align_corners=align_corners, **kwargs)
    return output if points.ndim == 4 else output[..., 0]


class SimpleRoIAlign(nn.Module):
    """``mmcv.ops.SimpleRoIAlign``: one bilinear sample at the centre of each bin.

    Args:
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        aligned: ``False`` is the older rule, which samples with ``align_corners``.
    """

    def __init__(self, output_size: Size, spatial_scale: float, aligned: bool = True) -> None:
        super().__init__()
        self.output_size, self.spatial_scale = _layers.pair("output_size", output_size), float(spatial_scale)
        self.use_torchvision, self.aligned = False, aligned

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """``[K, C, rows, columns]`` of ``features`` ``[N, C, H, W]`` in ``rois`` ``[K, 5]``, in the order of the rois.

        Raises:
            ValueError: (also an ``AssertionError``) ``rois`` has not five columns.
        """
        checks.ndim("features", features, 4, "[N, C, H, W]")
        if rois.ndim != 2 or rois.shape[1] != 5:
            raise Refused(f"rois: expected [K, 5] (image, x1, y1, x2, y2), got shape {list(rois.shape)}")
        points = generate_grid(len(rois), self.output_size, rois.device).to(rois.dtype)
        points = rel_roi_point_to_rel_img_point(rois, points, features, self.spatial_scale)
        output = features.new_zeros(len(rois), features.shape[1], points.shape[1])
        for image in range(len(features)):
            chosen = (rois[:, 0].long() == image).nonzero()[:, 0]
            sampled = point_sample(features[image : image + 1], points[None, chosen], not self.aligned)
            output = output.index_copy(0, chosen, sampled[0].transpose(0, 1))
        return output.unflatten(2, self.output_size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(output_size={self.output_size}, spatial_scale={self.spatial_scale})"


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou", aligned: bool = False, offset: int = 0
) -> Tensor:
    """``mmcv.ops.bbox_overlaps``.

    Args:
        bboxes1: ``[M, 4]`` (x1, y1, x2, y2), or empty.
        bboxes2: ``[N, 4]``, or empty.
        mode: ``"iou"``, or ``"iof"``: the intersection over the area of the first box.
        aligned: the overlap of each pair of rows.
        offset: 0 or 1; widths are ``x2 - x1 + offset``.

    Returns:
        ``[M, N]``; with ``aligned`` ``[M]``, and ``[0, 1]`` without boxes.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    if mode not in ("iou", "iof"):
        raise Refused(f"mode: expected 'iou' or 'iof', got {mode!r}")
    if offset not in (0, 1):
        raise Refused(f"offset: expected 0 or 1, got {offset!r}")
    for name, value in (("bboxes1", bboxes1), ("bboxes2", bboxes2)):
        if len(value) and (value.ndim != 2 or value.shape[1] != 4):
            raise Refused(f"{name}: expected [N, 4], got shape {list(value.shape)}")
    if aligned and len(bboxes1) != len(bboxes2):
        raise Refused(f"aligned: expected as many boxes in both, got {len(bboxes1)} and {len(bboxes2)}")
    if not len(bboxes1) or not len(bboxes2):
        return bboxes1.new_zeros(len(bboxes1), 1 if aligned else len(bboxes2))
    first, second = (bboxes1, bboxes2) if aligned else (bboxes1[:, None], bboxes2[None])
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    shared = (sides + offset).clamp(min=0).prod(-1)
    one, other = areas(first, offset), areas(second, offset)
    return shared / (one + other - shared if mode == "iou" else one).clamp(min=offset)
