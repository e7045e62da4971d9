"""InternImage's packages ``DCNv3`` and ``ops_dcnv3`` by this package's operator, without anything to build.

    from dcn.compat.dcnv3 import DCNv3                  # was: from ops_dcnv3.modules import DCNv3

The compiled extension's functions (:func:`dcnv3_forward`, :func:`dcnv3_backward`, with and without ``remove_center``),
``DCNv3Function``, ``dcnv3_core_pytorch`` and the modules with their argument lists and state-dict keys, on the CPU and
on GPUs, for every type. ``im2col_step`` has no effect: any batch size is taken at once. Programs whose imports you
cannot change are served by :func:`install`, called before their import.

``pad_h`` moves rows and ``pad_w`` columns, as in the CUDA kernel; the original's PyTorch version exchanges them.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder
from typing import Any

import torch
from torch import Tensor

from dcn import ops
from dcn.compat._packages import Contents, fill, works
from dcn.compat._sampling import beside, groups_of
from dcn.nn import DCNv3

__all__ = [
    "DCNv3",
    "DCNv3Function",
    "DCNv3_pytorch",
    "dcnv3_backward",
    "dcnv3_core_pytorch",
    "dcnv3_forward",
    "install",
]

VERSION = "1.1"
"""What ``pkg_resources`` and ``importlib.metadata`` say of ``DCNv3`` after :func:`install`: has ``remove_center``."""

DCNv3_pytorch = DCNv3
"""The original has a module in plain PyTorch beside the one with the extension."""


def dcnv3_core_pytorch(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
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
    remove_center: bool = False,
) -> Tensor:
    """The original's PyTorch version, at full speed: ``[N, Ho, Wo, C]``, with gradients.

    Args:
        input: ``[N, H, W, group * group_channels]``.
        offset: ``[N, Ho, Wo, group*K*2]``, x, then y; cast to the type of ``input`` where it differs.
        mask: ``[N, Ho, Wo, group*K]``; cast likewise.
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
        remove_center: whether the centre tap is left out.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return ops.dcnv3(
        input,
        beside(offset, input),
        beside(mask, input),
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        groups_of(input, group, group_channels),
        float(offset_scale),
        bool(remove_center),
    )


def dcnv3_forward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
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
    """``DCNv3.dcnv3_forward``: ``[N, Ho, Wo, C]``, without gradients.

    Arguments as :func:`dcnv3_core_pytorch`; ``im2col_step`` has no effect.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    kernel = (kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    with torch.no_grad():
        return dcnv3_core_pytorch(input, offset, mask, *kernel, group, group_channels, offset_scale, remove_center)


def dcnv3_backward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
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
    grad_output: Tensor,
    im2col_step: int = 256,
    remove_center: bool = False,
) -> list[Tensor]:
    """``DCNv3.dcnv3_backward``: gradients of input, offset and mask.

    Arguments as :func:`dcnv3_forward`; ``grad_output [N, Ho, Wo, C]`` comes before ``im2col_step``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    kernel = (kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    input, offset, mask = leaves = [t.detach().requires_grad_() for t in (input, offset, mask)]
    with torch.enable_grad():
        output = dcnv3_core_pytorch(input, offset, mask, *kernel, group, group_channels, offset_scale, remove_center)
    return list(torch.autograd.grad(output, leaves, grad_output))


class DCNv3Function:
    """``DCNv3Function`` of ``ops_dcnv3.functions``: ``apply`` with positional arguments."""

    @staticmethod
    def apply(
        input: Tensor,
        offset: Tensor,
        mask: Tensor,
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
        """``[N, Ho, Wo, C]``, with gradients; arguments as :func:`dcnv3_forward`.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        kernel = (kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
        return dcnv3_core_pytorch(input, offset, mask, *kernel, group, group_channels, offset_scale, remove_center)


class _Metadata(Distribution):
    """The distribution ``DCNv3``, whose version the original's code reads as a number."""

    def read_text(self, filename: str) -> str | None:
        """The one text that `importlib.metadata` asks for."""
        return f"Metadata-Version: 2.1\nName: DCNv3\nVersion: {VERSION}\n" if filename == "METADATA" else None

    def locate_file(self, path: object) -> Any:
        """Refused: there are no files."""
        raise FileNotFoundError(f"DCNv3 is a stand-in of dcn.compat.dcnv3 and has no file {path}")


class _Finder(DistributionFinder):
    def find_spec(self, *args: object, **kwargs: object) -> None:
        """There is no module here."""

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterator[Distribution]:
        """The stand-in, where its name or all names are asked for."""
        name = None if context is None else context.name
        return iter([_Metadata()] if (name or "").lower() == "dcnv3" else [])


def _publish_version() -> None:
    """For ``pkg_resources``, where there is one, and ``importlib.metadata``."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and the original's code uses it
        try:
            resources: Any = importlib.import_module("pkg_resources")
        except ImportError:
            return
    resources.working_set.add(resources.Distribution(project_name="DCNv3", version=VERSION))


_EXTENSION: Contents = {"DCNv3": {"dcnv3_forward": dcnv3_forward, "dcnv3_backward": dcnv3_backward}}
_MODULES = {"DCNv3": DCNv3, "DCNv3_pytorch": DCNv3_pytorch}
_FUNCTIONS = {"DCNv3Function": DCNv3Function, "dcnv3_core_pytorch": dcnv3_core_pytorch}
_PACKAGE: Contents = {
    "ops_dcnv3": {},
    "ops_dcnv3.modules": _MODULES,
    "ops_dcnv3.modules.dcnv3": _MODULES,
    "ops_dcnv3.functions": _FUNCTIONS,
    "ops_dcnv3.functions.dcnv3_func": _FUNCTIONS,
}


def install(*, replace: bool = False) -> tuple[str, ...]:
    """Stand in for ``DCNv3`` and ``ops_dcnv3`` where they are missing or do not load.

    Call it before the program imports them. The extension ``DCNv3`` is left alone where it works; ``ops_dcnv3`` is left
    alone where it is there, since with the extension it works.

    Args:
        replace: stand in for what works too.

    Returns:
        The names of the modules that were filled in.
    """
    filled: tuple[str, ...] = ()
    if replace or not works("DCNv3", "dcnv3_forward"):
        filled = fill(_EXTENSION)
        _publish_version()
    if replace or not works("ops_dcnv3.modules", "DCNv3"):
        filled += fill(_PACKAGE)
    return filled
