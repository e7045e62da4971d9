"""Deformable RoI pooling in its two published forms, which share a name and little else.

:func:`deform_ps_roi_pool` is the operator of the paper's own code: rounded RoIs, samples at the left edge of sub-bins,
offsets per part and per class, optionally position-sensitive channels. :func:`deform_roi_pool` is what mmcv replaced it
by in 2020: RoIAlign whose bins move. Both take the offsets **x first, then y** (deformable convolution: y first), as a
share of the RoI's size, and both take an optional modulation mask (Zhu et al., "Deformable ConvNets v2", equation 2).

Boxes are as in :mod:`dcn.ops.roi_pool` and get no gradient. An offset that is NaN or infinite gives its bin zeros.
"""

from __future__ import annotations

from torch import Tensor

from dcn import checks
from dcn.kernels.roi_grid import RoiRule
from dcn.ops._roi_mean import MOST_SAMPLES, Boxes, roi_mean
from dcn.ops.roi_pool import bins, samples


def deform_ps_roi_pool(
    input: Tensor,
    boxes: Boxes,
    offset: Tensor | None,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    mask: Tensor | None = None,
    *,
    group_size: int | tuple[int, int] = 1,
    sample_per_part: int = 4,
    trans_std: float = 0.1,
    backend: str | None = None,
) -> Tensor:
    """Deformable (position-sensitive) RoI pooling: Dai et al., "Deformable Convolutional Networks", equations 5 and 6.

    The rule of the original MXNet code: corners are rounded in image pixels, the last one belongs to the RoI (+1), both
    are scaled and moved by -0.5; least size 0.1 map pixels. A bin moves by ``trans_std * offset * RoI size``. Its
    ``sample_per_part²`` samples lie at the left edges of equal sub-bins; those over half a pixel outside the map are
    dropped, and the bin is the mean of the rest (0 without any). The slope at a whole coordinate is 0.

    Args:
        input: map ``[N, D * group * group, H, W]``; bin ``(p, q)`` of output channel ``d`` reads channel
            ``(d * group + p * group // rows) * group + q * group // columns``.
        boxes: ``[R, 5]`` (image index, x1, y1, x2, y2) in pixels of the image, or a list of ``[R_i, 4]`` per image.
        offset: ``[R, 2 * classes, parts, parts]``: channel ``2 * k`` holds x and ``2 * k + 1`` y for class ``k``, whose
            output channels are ``k * D / classes`` and the following ones. ``parts`` need not equal the bins. ``None``:
            no offsets (``no_trans``).
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        mask: ``[R, 1, rows, columns]``, multiplied with every channel of a bin, or ``None``.
        group_size: channel groups per axis: 1 for ordinary pooling (Faster R-CNN), ``output_size`` for R-FCN.
        sample_per_part: samples per bin and axis, at least 1.
        trans_std: unit of the offsets as a share of the RoI's width and height.
        backend: ``None`` chooses, ``"triton"``, ``"cpu"`` or ``"reference"``.

    Returns:
        ``[R, D, rows, columns]`` in the type of ``input``.

    Raises:
        ValueError: a wrong shape, type, device, option, or (on the CPU) an image index that does not exist.
    """
    checks.whole("sample_per_part", sample_per_part, 1, MOST_SAMPLES)
    scale, unit = checks.number("spatial_scale", spatial_scale, above=0.0), checks.number("trans_std", trans_std)
    rows, columns = checks.int_tuple("group_size", group_size, 2, 1)
    size = bins(output_size)
    rule = RoiRule("parts", size, (rows, columns), scale, sample_per_part, unit)
    return roi_mean(input, boxes, offset, mask, rule, backend)


def deform_roi_pool(
    input: Tensor,
    boxes: Boxes,
    offset: Tensor | None,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    mask: Tensor | None = None,
    *,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
    backend: str | None = None,
) -> Tensor:
    """RoIAlign with moved bins, mmcv's ``deform_roi_pool``; without offsets it is ``roi_align(aligned=True)``.

    A bin moves by ``gamma * offset * RoI size``. The gradient follows the forward everywhere: a sample held at the
    border does not move, so it passes nothing to the offset (mmcv's kernel lets it, beyond the lower right border).

    Args:
        input: map ``[N, C, H, W]``.
        boxes: ``[R, 5]`` (image index, x1, y1, x2, y2) in pixels of the image, or a list of ``[R_i, 4]`` per image.
        offset: ``[R, 2, rows, columns]``, plane 0 x and plane 1 y, or ``None``.
        output_size: bins, one number or ``(rows, columns)``.
        spatial_scale: map pixels per box pixel.
        mask: ``[R, 1, rows, columns]``, multiplied with every channel of a bin, or ``None``.
        sampling_ratio: samples per bin and axis; 0 or less: ``ceil(bin size)``.
        gamma: unit of the offsets as a share of the RoI's width and height.
        backend: ``None`` chooses, ``"triton"``, ``"cpu"`` or ``"reference"``.

    Returns:
        ``[R, C, rows, columns]`` in the type of ``input``.

    Raises:
        ValueError: a wrong shape, type, device, option, or (on the CPU) an image index that does not exist.
    """
    scale, unit = checks.number("spatial_scale", spatial_scale, above=0.0), checks.number("gamma", gamma)
    count = samples("sampling_ratio", sampling_ratio)
    rule = RoiRule("half_pixel", bins(output_size), (1, 1), scale, count, unit)
    return roi_mean(input, boxes, offset, mask, rule, backend)
