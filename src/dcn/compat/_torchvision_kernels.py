"""The ``torchvision::`` operators by this package's, for programs whose imports cannot change."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dcn import ops

_LIBRARIES: list[torch.library.Library] = []
"""Registrations end with the object that made them."""

_ROI = "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": f"({_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool": f"({_ROI}) -> (Tensor, Tensor)",
    "ps_roi_align": f"({_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    "ps_roi_pool": f"({_ROI}) -> (Tensor, Tensor)",
    "deform_conv2d": "(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask) -> Tensor",
}


def _nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return ops.nms(dets, scores, iou_threshold)


def _roi_align(
    input: Tensor, rois: Tensor, spatial_scale: float, rows: int, columns: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    return ops.roi_align(input, rois, (rows, columns), spatial_scale, sampling_ratio, aligned)


def _roi_pool(input: Tensor, rois: Tensor, spatial_scale: float, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    output = ops.roi_pool(input, rois, (rows, columns), spatial_scale)
    # torchvision's own backward pass reads the second result; here the first carries its gradient itself.
    return output, torch.full_like(output, -1, dtype=torch.int32)


def _channels(output: Tensor) -> Tensor:
    """The input channel of every output element, torchvision's second result."""
    count = output.shape[1] * output.shape[2] * output.shape[3]
    index = torch.arange(count, dtype=torch.int32, device=output.device)
    return index.view(output.shape[1:]).repeat(output.shape[0], 1, 1, 1)


def _ps_roi_align(
    input: Tensor, rois: Tensor, spatial_scale: float, rows: int, columns: int, sampling_ratio: int
) -> tuple[Tensor, Tensor]:
    output = ops.ps_roi_align(input, rois, (rows, columns), spatial_scale, sampling_ratio)
    return output, _channels(output)


def _ps_roi_pool(input: Tensor, rois: Tensor, spatial_scale: float, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    output = ops.ps_roi_pool(input, rois, (rows, columns), spatial_scale, rounding="after_scale")
    return output, _channels(output)


def _deform_conv2d(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    bias: Tensor,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Tensor:
    stride, padding, dilation = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    return ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask if use_mask else None)


KERNELS: dict[str, Callable[..., Any]] = {
    "nms": _nms,
    "roi_align": _roi_align,
    "roi_pool": _roi_pool,
    "ps_roi_align": _ps_roi_align,
    "ps_roi_pool": _ps_roi_pool,
    "deform_conv2d": _deform_conv2d,
}


def _exists(name: str) -> bool:
    return bool(torch._C._jit_get_schemas_for_operator(f"torchvision::{name}"))


def _torchvision_imports() -> bool:
    """Whether torchvision is installed and imports; a half-imported one is taken out of ``sys.modules`` again."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # "operator torchvision::nms does not exist": its library does not fit this torch
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return False
    return True


def _fake_nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return dets.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _define(missing: list[str], own_fake: bool) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    _LIBRARIES.append(library)
    for name in missing:
        library.define(name + SCHEMAS[name])
        if name == "nms":
            # Its result has a size of its own, so that tracing needs a fake kernel: torchvision brings one.
            for key in ("CPU", "CUDA"):
                library.impl(name, KERNELS[name], key)
            if own_fake:
                torch.library.register_fake("torchvision::nms", _fake_nms, lib=library)
        else:
            library.impl(name, KERNELS[name], "CompositeImplicitAutograd")


def _revive_torchvision() -> None:
    """Import a torchvision whose own library does not load, now that the operators it asks for exist."""
    if not _exists("qnms"):
        # Quantised suppression has no kernel here; torchvision's import only asks for its name.
        _LIBRARIES[-1].define("qnms" + SCHEMAS["nms"])
    importlib.import_module("torchvision")
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "torchvision" and hasattr(module, "_has_ops"):
            vars(module)["_has_ops"] = lambda: True


def install() -> tuple[str, ...]:
    """Fill in the ``torchvision::`` operators that are missing, so that unmodified code and exported programs run.

    Where torchvision is complete nothing is touched. Where it is not installed the operators ``nms``, ``roi_align``,
    ``roi_pool``, ``ps_roi_align``, ``ps_roi_pool`` and ``deform_conv2d`` are defined: ``torch.ops.torchvision.nms``
    and programs saved by ``torch.export`` work. Where torchvision is installed but its library does not fit this torch
    (its import fails with "operator torchvision::nms does not exist") it is imported on top of them, so that
    ``torchvision.ops`` works. Every operator has its gradients. The second result of ``roi_pool`` (the indices of the
    largest cells, which only torchvision's own backward pass reads) is filled with -1.

    Returns:
        The names that were filled in; ``()`` where nothing was missing, and on every later call.
    """
    installed = importlib.util.find_spec("torchvision") is not None
    works = _torchvision_imports()
    missing = [name for name in SCHEMAS if not _exists(name)]
    if not missing:
        return ()
    _define(missing, own_fake=not installed or works)
    if installed and not works:
        _revive_torchvision()
    return tuple(missing)
