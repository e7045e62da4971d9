"""``basicsr.ops.dcn``, and ``mmdet.ops.dcn`` of mmdetection 1.x, by this package's operators.

    from dcn.compat.basicsr import ModulatedDeformConvPack      # was: from basicsr.ops.dcn import ...

The convolutions of BasicSR, EDVR, mmdetection 1.x, and of the many programs that carry a copy of that folder. Argument
lists, attributes (``deformable_groups``, ``with_bias``), first values and state-dict keys are theirs; the offset branch
is ``conv_offset.*``. A subclass with a forward of its own, such as EDVR's ``DCNv2Pack``, stays as it is. The argument
``im2col_step`` has no effect. A wrong argument raises an error that is both a ``ValueError`` and an ``AssertionError``.
Programs whose imports you cannot change are served by :func:`install`, called before their import.
"""

from __future__ import annotations

import importlib.util
import sys

from torch import nn

from dcn.compat import _layers, _mmcv_extension, mmcv
from dcn.compat._packages import fill, works
from dcn.compat.detectron2 import deform_conv, modulated_deform_conv

__all__ = [
    "DeformConv",
    "DeformConvPack",
    "ModulatedDeformConv",
    "ModulatedDeformConvPack",
    "deform_conv",
    "install",
    "modulated_deform_conv",
]


class _Plain(nn.Module):
    """Arguments and attributes of the layers without masks, in front of those of mmcv."""

    in_channels: int
    weight: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _layers.Size,
        stride: _layers.Size = 1,
        padding: _layers.Size = 0,
        dilation: _layers.Size = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
    ) -> None:
        geometry = (stride, padding, dilation, groups)
        super().__init__(in_channels, out_channels, kernel_size, *geometry, deformable_groups, bias)
        self.deformable_groups, self.with_bias = deformable_groups, bias

    def reset_parameters(self) -> None:
        """Draw the weight uniformly within ``1/sqrt(in_channels * kh * kw)``."""
        _layers.uniform(self.weight, None, self.in_channels)


class _Modulated(nn.Module):
    """The same of the layers with masks, which have a bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _layers.Size,
        stride: _layers.Size = 1,
        padding: _layers.Size = 0,
        dilation: _layers.Size = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
    ) -> None:
        geometry = (stride, padding, dilation, groups)
        super().__init__(in_channels, out_channels, kernel_size, *geometry, deformable_groups, bias)
        self.deformable_groups, self.with_bias = deformable_groups, bias


class DeformConv(_Plain, mmcv.DeformConv2d):
    """The layer whose offsets come from the caller; arguments as ``nn.Conv2d``, with ``deformable_groups``.

    Keys: ``weight``.
    """


class DeformConvPack(_Plain, mmcv.DeformConv2dPack):
    """The layer that predicts its offsets; arguments as :class:`DeformConv`. Keys: ``weight``, ``conv_offset.*``."""


class ModulatedDeformConv(_Modulated, mmcv.ModulatedDeformConv2d):
    """The layer whose offsets and mask come from the caller; arguments as :class:`DeformConv`.

    Keys: ``weight``, ``bias``.
    """


class ModulatedDeformConvPack(_Modulated, mmcv.ModulatedDeformConv2dPack):
    """The layer that predicts offsets and mask; arguments as :class:`DeformConv`.

    Keys: ``weight``, ``bias``, ``conv_offset.*``.
    """


_FUNCTIONS = {
    name: _mmcv_extension.FUNCTIONS[name]
    for name in (
        "deform_conv_forward",
        "deform_conv_backward_input",
        "deform_conv_backward_parameters",
        "modulated_deform_conv_forward",
        "modulated_deform_conv_backward",
    )
}
# The names of the first version, deform_conv_cuda.
_FIRST = {f"{name}_cuda": value for name, value in _FUNCTIONS.items() if not name.startswith("modulated")} | {
    name.replace("conv_", "conv_cuda_"): value for name, value in _FUNCTIONS.items() if name.startswith("modulated")
}


def install(*names: str, replace: bool = False) -> tuple[str, ...]:
    """Stand in for the compiled extension of the folder, where it is missing or does not load.

    Call it before the program imports its convolutions. Their own code around the extension stays in use; BasicSR's
    refuses tensors on the CPU, so that it runs on GPUs alone (the layers of this module run on both).

    Args:
        names: full names of extensions of copies, such as ``"models.dcn.deform_conv_cuda"``; without any that of
            BasicSR, ``"basicsr.ops.dcn.deform_conv_ext"``.
        replace: stand in for extensions that work, too.

    Returns:
        The names that were filled in. What belongs to a package that is not there is left out.
    """
    filled: list[str] = []
    for name in names or ("basicsr.ops.dcn.deform_conv_ext",):
        parent, _, last = name.rpartition(".")
        there = not parent or importlib.util.find_spec(parent.partition(".")[0]) is not None
        if not there or (not replace and any(works(name, function) for function in (*_FUNCTIONS, *_FIRST))):
            continue
        filled += fill({name: {**_FUNCTIONS, **_FIRST}})
        user = sys.modules.get(f"{parent}.deform_conv")
        if user is not None:  # it was imported on the way, without its extension
            setattr(user, last, sys.modules[name])
    return tuple(filled)
