"""A model made ready for inference: the same results with less work."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from dcn.models.preprocess import Preprocess
from dcn.nn import DeformConv2d, fold_batch_norm

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def prepare(model: nn.Module, precision: Precision = "float32") -> nn.Module:
    """A copy of a model for inference; the given model is not changed.

    Batch norm is folded into the convolutions (:func:`dcn.nn.fold_batch_norm`), and maps and weights lie with their
    channels last in memory, which convolutions on both CPU and GPU are fastest with. Results agree with those of the
    given model but for rounding. With half precision the layers' weights and maps are in that type, while anchors,
    boxes, scores and sampling positions stay in float32.

    Parameters that stay as they are share their memory with the given model. The copy's state dict has other keys:
    weights are loaded before this step and saved from the model before it.

    Args:
        model: a model of :func:`dcn.models.build`.
        precision: of weights and maps.

    Raises:
        ValueError: for an unknown precision, or a model without a :class:`Preprocess`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    preprocess = getattr(model, "preprocess", None)
    if not isinstance(preprocess, Preprocess):
        raise ValueError(f"model: expected a model of dcn.models, with a Preprocess, got {type(model).__name__}")
    dtype = PRECISIONS[precision]
    # The memo keeps deepcopy from copying parameters: folding and casting replace them.
    shared: dict[int, Tensor] = {id(parameter): parameter for parameter in model.parameters()}
    ours = copy.deepcopy(model, dict(shared)).eval()
    fold_batch_norm(ours)
    for module in ours.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, _ready(parameter, dtype, isinstance(module, nn.Conv2d | DeformConv2d)))
    assert isinstance(ours.preprocess, Preprocess)
    ours.preprocess.output_dtype, ours.preprocess.channels_last = dtype, True
    return ours


def _ready(parameter: Tensor, dtype: torch.dtype, channels_last: bool) -> nn.Parameter:
    """The parameter in the type and the order of memory of inference; its own memory where it has both already."""
    value = parameter.detach().to(dtype)
    if channels_last and value.ndim == 4:
        value = value.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(value, requires_grad=False)
