"""ONNX translations of every operator of this package, from operators of the standard (opset 20) alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

import dcn.ops  # registers the operators
from dcn.export.operators import (
    dcnv3,
    deform_conv,
    deform_conv_transpose,
    ms_deform_attn,
    nms,
    roi_max,
    roi_mean,
    soft_nms,
    sort,
)

__all__ = ["OPSET", "register", "translations"]

OPSET = 20
"""What the translations need: GridSample for volumes came with it."""

CONVOLUTION_OPSET = 19
"""What deformable convolutions of sequences and maps need: DeformConv came with it."""


def _own() -> dict[Callable[..., Any], Callable[..., Any]]:
    assert dcn.ops
    own = torch.ops.dcn
    return {
        own.deform_conv.default: deform_conv.translate,
        own.deform_conv_transpose.default: deform_conv_transpose.translate,
        own.roi_mean.default: roi_mean.translate,
        own.roi_max.default: roi_max.translate,
        own.nms.default: nms.translate,
        own.nms_keep.default: nms.translate_keep,
        own.soft_nms.default: soft_nms.translate,
        own.dcnv3.default: dcnv3.translate,
        own.dcnv4.default: dcnv3.translate_fused,
        own.ms_deform_attn.default: ms_deform_attn.translate,
    }


def _torchs() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators of torch that this package's models use and that torch may not translate itself."""
    return {torch.ops.aten.sort.stable: sort.translate}


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """All of them, as an argument ``custom_translation_table`` of ``torch.onnx.export``."""
    return _own() | _torchs()


def _too_old(name: str, version: int, *_: Any, **__: Any) -> Any:
    raise ValueError(
        f"opset_version: expected {OPSET} or later for {name}, got {version}; "
        f"call torch.onnx.export(..., opset_version={OPSET})"
    )


def _for_old_opset(target: Callable[..., Any], function: Callable[..., Any], version: int) -> Callable[..., Any]:
    """The translation for an opset before :data:`OPSET`: a refusal, but for deformable convolution."""
    refuse = functools.partial(_too_old, str(target), version)
    if target is not torch.ops.dcn.deform_conv.default or version < CONVOLUTION_OPSET:
        return refuse

    def translate(input: Any, *arguments: Any, **options: Any) -> Any:
        return (refuse if len(input.shape) > 4 else function)(input, *arguments, **options)

    return translate


def register(table: Any) -> None:
    """Add the translations to a table of torch; those of torch's own operators only where it has none.

    A translation that the caller of an export gives for one of them replaces it.
    """
    version = int(table.opset_version)
    added: dict[str, object] = {}
    for target, function in _own().items():
        added[str(target)] = _add(
            table, target, function if version >= OPSET else _for_old_opset(target, function, version)
        )
    for target, function in _torchs().items():
        if not table.is_registered(target):
            added[str(target)] = _add(table, target, function)
    _give_way(table, added)


def _add(table: Any, target: Callable[..., Any], function: Callable[..., Any]) -> object:
    from torch.onnx._internal.exporter import _registration

    entry = _registration.OnnxDecompMeta(
        onnx_function=function,
        fx_target=target,
        signature=None,
        is_custom=True,
        skip_signature_inference=True,
    )
    table._register(target, entry)
    return entry


def _give_way(table: Any, added: dict[str, object]) -> None:
    """Take an entry out when another is registered for its operator.

    torch puts the later one in front, but torch 2.9 skips it where it cannot tell its arguments, as of a function with
    ``*rest``.
    """
    inner = table.register_op

    @functools.wraps(inner)
    def register_op(target: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        own = added.pop(str(target), None)
        if own is not None:
            for entries in table.functions.values():
                entries[:] = [entry for entry in entries if entry is not own]
        inner(target, *arguments, **options)

    table.register_op = register_op
