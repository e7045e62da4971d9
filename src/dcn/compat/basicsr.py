"""``basicsr.ops.dcn``, and ``mmdet.ops.dcn`` of mmdetection 1.x, by this package's operators.

    from dcn.compat.basicsr import ModulatedDeformConvPack      # was: from basicsr.ops.dcn import ...

The convolutions of BasicSR, EDVR, mmdetection 1.x, and of the many programs that carry a copy of that folder. Argument
lists, attributes (``deformable_groups``, ``with_bias``), first values and state-dict keys are theirs; the offset branch
is ``conv_offset.*``. A subclass with a forward of its own, such as EDVR's ``DCNv2Pack``, stays as it is. The argument
``im2col_step`` has no effect. A wrong argument raises an error that is both a ``ValueError`` and an ``AssertionError``.
Programs whose imports you cannot change are served by :func:`install`, called before they import their models.
"""

from __future__ import annotations

import importlib
import importlib.util

from torch import Tensor, nn

from dcn.compat import _layers, mmcv
from dcn.compat._packages import works
from dcn.compat._stand_in import pretend, put
from dcn.compat.detectron2 import deform_conv, modulated_deform_conv

__all__ = [
    "DeformConv",
    "DeformConvFunction",
    "DeformConvPack",
    "ModulatedDeformConv",
    "ModulatedDeformConvFunction",
    "ModulatedDeformConvPack",
    "deform_conv",
    "install",
    "modulated_deform_conv",
]


class DeformConvFunction:
    """``DeformConvFunction`` of these programs; ``apply`` is :func:`deform_conv`, with gradients."""

    apply = staticmethod(deform_conv)


class ModulatedDeformConvFunction:
    """``ModulatedDeformConvFunction`` of these programs, and of those that give an ``im2col_step`` (NLSPN)."""

    @staticmethod
    def apply(
        input: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: _layers.Size = 1,
        padding: _layers.Size = 0,
        dilation: _layers.Size = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        im2col_step: int = 64,
    ) -> Tensor:
        """``[N, O, H_out, W_out]``, with gradients; arguments as :func:`modulated_deform_conv`.

        ``im2col_step`` has no effect.

        Raises:
            ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
        """
        return modulated_deform_conv(
            input, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups
        )


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


_EXTENSIONS = ("deform_conv_ext", "deform_conv_cuda")
_FUNCTIONS = {
    "DeformConvFunction": DeformConvFunction,
    "ModulatedDeformConvFunction": ModulatedDeformConvFunction,
    "deform_conv": deform_conv,
    "modulated_deform_conv": modulated_deform_conv,
}


def install(*modules: str, replace: bool = False) -> tuple[str, ...]:
    """Let the layers of BasicSR, or of copies of its folder, compute here where their extension is missing.

    Call it before the program imports its models. The classes of the layers stay, and with them checkpoints; the
    functions that they call are replaced, so that they run on the CPU too. A working extension is left alone.

    Args:
        modules: full names of the modules that hold the layers, such as ``"models.dcn.deform_conv"`` of a copy; without
            any ``"basicsr.ops.dcn.deform_conv"``.
        replace: compute here with a working extension too.

    Returns:
        The modules whose functions were replaced. A package that is not there is left out.

    Raises:
        ImportError: a module cannot be imported for another reason than its extension.
    """
    filled = []
    for name in modules or ("basicsr.ops.dcn.deform_conv",):
        package = name.rpartition(".")[0]
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            continue
        extensions = [f"{package}.{last}".lstrip(".") for last in _EXTENSIONS]
        if not replace and any(works(extension, "__file__") for extension in extensions):
            continue
        for extension in extensions:
            pretend(extension)
        importlib.import_module(name)
        put(name, _FUNCTIONS, _FUNCTIONS)
        filled.append(name)
    return tuple(filled)
