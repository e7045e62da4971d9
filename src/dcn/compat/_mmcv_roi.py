"""mmcv's RoIAlign (mean and maximum) and its RoI max pooling, whose rule is mmcv's alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcn import checks, ops
from dcn.compat import _layers
from dcn.compat._layers import Refused, Size


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: Size,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    pool_mode: str = "avg",
    aligned: bool = True,
) -> Tensor:
    """``mmcv.ops.roi_align``.

    Args:
        input: ``[N, C, H, W]``.
        rois: ``[K, 5]`` (image, x1, y1, x2, y2).
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        sampling_ratio: samples per bin and axis; 0: ``ceil(bin size)``.
        pool_mode: ``"avg"`` or ``"max"`` of the samples of a bin.
        aligned: shift by half a pixel.

    Returns:
        ``[K, C, rows, columns]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    checks.choice("pool_mode", pool_mode, ("avg", "max"))
    size, scale, ratio = _layers.pair("output_size", output_size), float(spatial_scale), int(sampling_ratio)
    if pool_mode == "avg":
        return ops.roi_align(input, rois, size, scale, ratio, aligned)
    if ratio > 0:
        return _largest_sample(input, rois, size, scale, (ratio, ratio), aligned)
    output = input.new_zeros((rois.shape[0], input.shape[1], *size))
    counts = _samples(rois, size, scale, aligned)
    for rows, columns in torch.unique(counts, dim=0).tolist():
        if rows > 0 and columns > 0:
            chosen = ((counts[:, 0] == rows) & (counts[:, 1] == columns)).nonzero()[:, 0]
            pooled = _largest_sample(input, rois[chosen], size, scale, (rows, columns), aligned)
            output = output.index_copy(0, chosen, pooled)
    return output


def _samples(rois: Tensor, size: tuple[int, int], scale: float, aligned: bool) -> Tensor:
    """Adaptive samples per bin ``[K, 2]`` int64, down and across."""
    low, high = rois[:, 1:3].flip(1) * scale, rois[:, 3:5].flip(1) * scale
    sizes = (high - low) if aligned else (high - low).clamp(min=1.0)
    return (sizes / sizes.new_tensor(size)).ceil().clamp(0, 1024).long()


def _largest_sample(
    input: Tensor, rois: Tensor, size: tuple[int, int], scale: float, samples: tuple[int, int], aligned: bool
) -> Tensor:
    """RoIAlign with one sample per bin on a grid finer by ``samples``, of which the largest of each bin stays."""
    fine = (size[0] * samples[0], size[1] * samples[1])
    return F.max_pool2d(ops.roi_align(input, rois, fine, scale, 1, aligned), samples)


def roi_pool(input: Tensor, rois: Tensor, output_size: Size, spatial_scale: float = 1.0) -> Tensor:
    """``mmcv.ops.roi_pool``: RoI max pooling by mmcv's rule.

    Corners are not rounded (torchvision's and Caffe's are): the RoI reaches from ``x1 * scale`` to ``(x2 + 1) *
    scale``, and a bin takes every cell that it touches. A RoI without size and a bin without a cell give 0.

    Args:
        input: ``[N, C, H, W]``.
        rois: ``[K, 5]`` (image, x1, y1, x2, y2).
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.

    Returns:
        ``[K, C, rows, columns]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    checks.ndim("input", input, 4, "[N, C, H, W]")
    checks.shape("rois", rois, (rois.shape[0], 5), "image, x1, y1, x2, y2")
    rows, columns = _layers.pair("output_size", output_size)
    low, high = rois[:, 1:3] * spatial_scale, (rois[:, 3:5] + 1) * spatial_scale
    edges = [_edges(low[:, a], high[:, a], n, input.shape[3 - a]) for a, n in ((1, rows), (0, columns))]
    if not rois.shape[0]:
        return input.new_zeros((0, input.shape[1], rows, columns))
    images = rois[:, 0].long().tolist()
    if min(images) < 0 or max(images) >= input.shape[0]:
        raise Refused(f"rois: expected image indices in 0..{input.shape[0] - 1} in column 0, got {images}")
    pooled = [
        _largest_cells(_largest_cells(input[image], down, 1), across, 2)
        for image, down, across in zip(images, edges[0].tolist(), edges[1].tolist(), strict=True)
    ]
    return torch.stack(pooled)


def _edges(low: Tensor, high: Tensor, bins: int, extent: int) -> Tensor:
    """First cell and the one after the last of every bin, ``[K, bins, 2]`` int64; equal for an empty bin."""
    size = (high - low).clamp(min=0.0)[:, None] / bins
    index = torch.arange(bins, device=low.device, dtype=low.dtype)
    first, last = (index * size + low[:, None]).floor(), ((index + 1) * size + low[:, None]).ceil()
    edges = torch.stack((first, last), 2).clamp(0, extent).long()
    return torch.where(size[..., None] > 0, edges, 0)


def _largest_cells(cells: Tensor, edges: list[list[int]], dim: int) -> Tensor:
    """The largest of the cells of every bin along ``dim``, whose size becomes the number of bins; 0 for none."""
    empty = cells.new_zeros([n for axis, n in enumerate(cells.shape) if axis != dim])
    return torch.stack([cells.narrow(dim, a, b - a).amax(dim) if b > a else empty for a, b in edges], dim)


class RoIAlign(nn.Module):
    """``mmcv.ops.RoIAlign``; see :func:`roi_align`."""

    @_layers.renamed(out_size="output_size", sample_num="sampling_ratio")
    def __init__(
        self,
        output_size: Size,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        pool_mode: str = "avg",
        aligned: bool = True,
        use_torchvision: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = _layers.pair("output_size", output_size)
        self.spatial_scale, self.sampling_ratio = float(spatial_scale), int(sampling_ratio)
        self.pool_mode, self.aligned, self.use_torchvision = pool_mode, aligned, use_torchvision

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """``[K, C, rows, columns]``. ``use_torchvision`` changes nothing: the rule is the same."""
        options = (self.output_size, self.spatial_scale, self.sampling_ratio)
        return roi_align(input, rois, *options, "avg" if self.use_torchvision else self.pool_mode, self.aligned)

    def __repr__(self) -> str:
        fields = ("output_size", "spatial_scale", "sampling_ratio", "pool_mode", "aligned", "use_torchvision")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in fields)})"


class RoIPool(nn.Module):
    """``mmcv.ops.RoIPool``; see :func:`roi_pool`."""

    @_layers.renamed(out_size="output_size")
    def __init__(self, output_size: Size, spatial_scale: float = 1.0) -> None:
        super().__init__()
        self.output_size, self.spatial_scale = _layers.pair("output_size", output_size), float(spatial_scale)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """``[K, C, rows, columns]``."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(output_size={self.output_size}, spatial_scale={self.spatial_scale})"
