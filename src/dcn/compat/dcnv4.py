"""The package ``DCNv4`` (FlashInternImage) by this package's operators, without anything to build.

    from dcn.compat.dcnv4 import DCNv4                  # was: from DCNv4 import DCNv4

The module with its argument list and state-dict keys, ``DCNv4Function``, the functions of the compiled ``DCNv4.ext``,
and ``FlashDeformAttn`` with its function. They run on the CPU and on GPUs, forward and backward in every type, for any
kernel, number of channels and batch. Launch settings (``im2col_step``, ``d_stride``, ``block_thread``) have no effect.
Keywords that the original swallows without using them (``padding``, ``groups``) are refused. Programs whose imports you
cannot change are served by :func:`install`, called before their import.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from dcn import checks, ops
from dcn.compat._packages import Contents, fill, works
from dcn.compat._sampling import beside, groups_of
from dcn.nn import DCNv4
from dcn.nn import MultiScaleDeformableAttention as FlashDeformAttn
from dcn.ops.ms_deform_attn import ms_deform_attn

__all__ = [
    "DCNv4",
    "DCNv4Function",
    "FlashDeformAttn",
    "FlashDeformAttnFunction",
    "dcnv4_backward",
    "dcnv4_forward",
    "install",
]


def _call(
    input: Tensor, offset_mask: Tensor, geometry: tuple[int, ...], scale: float, flags: tuple[bool, bool]
) -> Tensor:
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, depth = geometry
    return ops.dcnv4(
        input,
        beside(offset_mask, input),
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        groups_of(input, group, depth),
        float(scale),
        bool(flags[0]),
        softmax=bool(flags[1]),
    )


class DCNv4Function:
    """``DCNv4Function`` of ``DCNv4``: ``apply`` with positional arguments."""

    @staticmethod
    def apply(
        input: Tensor,
        offset_mask: Tensor,
        kernel_h: int,
        kernel_w: int,
        stride_h: int,
        stride_w: int,
        pad_h: int,
        pad_w: int,
        dilation_h: int,
        dilation_w: int,
        group: int,
        group_channels: int,
        offset_scale: float,
        im2col_step: int = 256,
        remove_center: bool = False,
    ) -> Tensor:
        """``[N, Ho, Wo, C]``, with gradients.

        Args:
            input: ``[N, H, W, group * group_channels]``.
            offset_mask: ``[N, Ho, Wo, R]``, see :func:`dcn.ops.dcnv4`; cast to the type of ``input`` where it differs.
            kernel_h: rows of the kernel.
            kernel_w: columns of the kernel.
            stride_h: step of the locations in y.
            stride_w: in x.
            pad_h: padding in y.
            pad_w: in x.
            dilation_h: distance of the taps in y.
            dilation_w: in x.
            group: groups of channels.
            group_channels: channels of a group.
            offset_scale: factor of the tap pattern.
            im2col_step: has no effect.
            remove_center: whether the centre tap is left out.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        geometry = (kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, group_channels)
        return _call(input, offset_mask, geometry, offset_scale, (remove_center, False))


def dcnv4_forward(
    value: Tensor,
    p_offset: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    group_channels: int,
    offset_scale: float,
    im2col_step: int = 256,
    remove_center: bool = False,
    d_stride: int = 0,
    block_thread: int = 0,
    softmax: bool = False,
) -> Tensor:
    """``DCNv4.ext.dcnv4_forward``: ``[N, Ho, Wo, C]``, without gradients.

    Arguments as :meth:`DCNv4Function.apply`; ``softmax`` normalises the masks over the taps.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    geometry = (kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, group_channels)
    with torch.no_grad():
        return _call(value, p_offset, geometry, offset_scale, (remove_center, softmax))


def dcnv4_backward(
    value: Tensor,
    p_offset: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    group_channels: int,
    offset_scale: float,
    im2col_step: int,
    grad_output: Tensor,
    remove_center: bool = False,
    d_stride: int = 0,
    block_thread: int = 0,
    softmax: bool = False,
) -> list[Tensor]:
    """``DCNv4.ext.dcnv4_backward``: gradients of value and offset_mask; ``grad_output`` comes after ``im2col_step``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    geometry = (kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, group_channels)
    leaves = [t.detach().requires_grad_() for t in (value, p_offset)]
    with torch.enable_grad():
        output = _call(leaves[0], leaves[1], geometry, offset_scale, (remove_center, softmax))
    return list(torch.autograd.grad(output, leaves, grad_output))


class FlashDeformAttnFunction:
    """Deformable attention with locations and logits in one tensor: ``apply`` with positional arguments."""

    @staticmethod
    def apply(
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_level_start_index: Tensor,
        sampling_loc_attn: Tensor,
        im2col_step: int = 64,
        K: int = 8,
    ) -> Tensor:
        """``[N, Q, M*D]``, with gradients.

        Args:
            value: ``[N, S, M, D]``.
            value_spatial_shapes: ``[L, 2]``, height and width.
            value_level_start_index: ``[L]``.
            sampling_loc_attn: ``[N, Q, M, 3*L*K]``: ``2*L*K`` locations (x, y from 0 to 1; by level, then point), then
                ``L*K`` logits, which a softmax turns into weights.
            im2col_step: has no effect.
            K: points per level.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        checks.ndim("sampling_loc_attn", sampling_loc_attn, 4, "[N, Q, M, 3*L*K]")
        levels = value_spatial_shapes.shape[0]
        checks.shape(
            *("sampling_loc_attn", sampling_loc_attn, (*sampling_loc_attn.shape[:3], 3 * levels * K)),
            why=f"batch, queries, heads, 3 * {levels} levels * {K} points",
        )
        locations, logits = sampling_loc_attn.split([2 * levels * K, levels * K], -1)
        dtype = torch.float32 if logits.dtype in checks.HALVES else logits.dtype
        weights = logits.softmax(-1, dtype=dtype).unflatten(-1, (levels, K))
        locations = beside(locations.unflatten(-1, (levels, K, 2)), value)
        return ms_deform_attn(value, value_spatial_shapes, value_level_start_index, locations, beside(weights, value))


_EXTENSION: Contents = {"DCNv4.ext": {"dcnv4_forward": dcnv4_forward, "dcnv4_backward": dcnv4_backward}}
_FUNCTIONS = {"DCNv4Function": DCNv4Function, "FlashDeformAttnFunction": FlashDeformAttnFunction}
_MODULES = {"DCNv4": DCNv4, "FlashDeformAttn": FlashDeformAttn}
_PACKAGE: Contents = {
    "DCNv4": {**_FUNCTIONS, **_MODULES},
    **_EXTENSION,
    "DCNv4.functions": _FUNCTIONS,
    "DCNv4.functions.dcnv4_func": _FUNCTIONS,
    "DCNv4.functions.flash_deform_attn_func": _FUNCTIONS,
    "DCNv4.modules": _MODULES,
    "DCNv4.modules.dcnv4": _MODULES,
    "DCNv4.modules.flash_deform_attn": _MODULES,
}


def install(*, replace: bool = False) -> tuple[str, ...]:
    """Stand in for the package ``DCNv4`` where it is missing or does not load.

    Call it before the program imports it. A package that works is left alone; one that is there but whose compiled
    ``DCNv4.ext`` is missing gets that, and is replaced as a whole if it does not load even so.

    Args:
        replace: stand in for a package that works too.

    Returns:
        The names of the modules that were filled in.
    """
    if replace:
        return fill(_PACKAGE)
    if works("DCNv4", "DCNv4Function"):
        return ()
    if importlib.util.find_spec("DCNv4") is not None:
        filled = fill(_EXTENSION)
        if works("DCNv4", "DCNv4Function"):
            return filled
    return fill(_PACKAGE)
