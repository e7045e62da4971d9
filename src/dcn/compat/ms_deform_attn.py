"""The compiled extension of Deformable DETR and its relatives by this package's operator.

    import dcn.compat.ms_deform_attn as MSDA            # was: import MultiScaleDeformableAttention as MSDA

The two functions of that extension module, with its positional arguments, on the CPU and on GPUs, for every type.
``im2col_step`` has no effect: any batch size is taken at once. Programs whose imports you cannot change are served by
:func:`install`, called before their import: ``MultiScaleDeformableAttention`` (Deformable DETR, Mask2Former and what
was copied from them), ``groundingdino._C`` (GroundingDINO, Grounded-SAM) and ``detrex._C``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import torch
from torch import Tensor

from dcn import ops
from dcn.compat._packages import fill, works
from dcn.compat._sampling import beside
from dcn.nn import MultiScaleDeformableAttention as MSDeformAttn
from dcn.ops.ms_deform_attn import Shapes

__all__ = [
    "EXTENSIONS",
    "MSDeformAttn",
    "MSDeformAttnFunction",
    "install",
    "ms_deform_attn_backward",
    "ms_deform_attn_core_pytorch",
    "ms_deform_attn_forward",
]

EXTENSIONS = ("MultiScaleDeformableAttention", "groundingdino._C", "detrex._C")
"""The compiled modules that :func:`install` can stand in for."""

_WANTS = {"groundingdino._C": "groundingdino.models.GroundingDINO.ms_deform_attn"}
"""Modules that catch the failed import of an extension and continue without it."""


def attend(value: Tensor, shapes: Shapes, starts: Tensor | None, locations: Tensor, weights: Tensor) -> Tensor:
    """:func:`dcn.ops.ms_deform_attn` of tensors whose types need not fit: those of ``value`` win."""
    return ops.ms_deform_attn(value, shapes, starts, beside(locations, value), beside(weights, value))


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """``MultiScaleDeformableAttention.ms_deform_attn_forward``: ``[N, Q, M*D]``, without gradients.

    Args:
        value: ``[N, S, M, D]``.
        spatial_shapes: ``[L, 2]``, height and width.
        level_start_index: ``[L]``.
        sampling_loc: ``[N, Q, M, L, P, 2]``, x, then y, from 0 to 1.
        attn_weight: ``[N, Q, M, L, P]``.
        im2col_step: has no effect.

    Returns:
        ``[N, Q, M*D]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    with torch.no_grad():
        return attend(value, spatial_shapes, level_start_index, sampling_loc, attn_weight)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    im2col_step: int = 64,
) -> list[Tensor]:
    """``MultiScaleDeformableAttention.ms_deform_attn_backward``: gradients of value, locations and weights.

    Arguments as :func:`ms_deform_attn_forward`; ``grad_output [N, Q, M*D]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    leaves = [t.detach().requires_grad_() for t in (value, sampling_loc, attn_weight)]
    with torch.enable_grad():
        output = attend(leaves[0], spatial_shapes, level_start_index, leaves[1], leaves[2])
    return list(torch.autograd.grad(output, leaves, grad_output))


class MSDeformAttnFunction:
    """``MSDeformAttnFunction`` of Deformable DETR and Mask2Former: ``apply`` with six positional arguments."""

    @staticmethod
    def apply(
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int = 64,
    ) -> Tensor:
        """``[N, Q, M*D]``, with gradients; arguments as :func:`ms_deform_attn_forward`.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        return attend(value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights)


def ms_deform_attn_core_pytorch(
    value: Tensor, value_spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The function that everybody falls back to (mmcv: ``multi_scale_deformable_attn_pytorch``), at full speed.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return attend(value, value_spatial_shapes, None, sampling_locations, attention_weights)


def install(*, replace: bool = False) -> tuple[str, ...]:
    """Stand in for the compiled extensions of :data:`EXTENSIONS` that are missing or do not load.

    Call it before the program imports them. An extension that works is left alone, and so is the one of a package that
    is not installed.

    Args:
        replace: stand in for working extensions too.

    Returns:
        The names that were filled in.
    """
    filled = []
    for name in EXTENSIONS:
        package, _, last = name.rpartition(".")
        if (package and importlib.util.find_spec(package) is None) or (
            not replace and works(name, "ms_deform_attn_forward")
        ):
            continue
        if package:
            importlib.import_module(package)
        fill({name: {f.__name__: f for f in (ms_deform_attn_forward, ms_deform_attn_backward)}})
        for user in (package, _WANTS.get(name, "")):
            if user in sys.modules:
                setattr(sys.modules[user], last, sys.modules[name])
        filled.append(name)
    return tuple(filled)
