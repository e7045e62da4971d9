"""Batch normalisation folded into the convolution before it: the same function with fewer passes over the maps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from dcn.nn.deform_conv import DeformConv2d
from dcn.nn.norm import FrozenBatchNorm2d

Norm = nn.BatchNorm2d | FrozenBatchNorm2d


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> int:
    """Fold every batch norm that follows a convolution into it, in place; for inference only.

    A normalisation with fixed statistics multiplies each channel by a number and adds another, and so does a
    convolution's weight and bias. Reading and writing a map once less matters: on a CPU the maps of a detector are
    larger than its caches. The normalisation leaves the network, so its state dict has other keys afterwards.

    Pairs are recognised by name and position: ``bn1`` after ``conv1`` of the same module, and a normalisation next to a
    convolution in a ``nn.Sequential``. A convolution that is used twice is left alone.

    Args:
        model: in evaluation mode.

    Returns:
        How many were folded.

    Raises:
        ValueError: in training mode, in which statistics are those of the batch.
    """
    if model.training:
        raise ValueError(
            "model: expected evaluation mode, got training mode, whose batch norm cannot be folded; call .eval() first"
        )
    uses: dict[nn.Module, int] = {}
    for module in model.modules():
        for child in module.children():
            uses[child] = uses.get(child, 0) + 1
    folded = 0
    for parent, conv, name, norm in list(_pairs(model)):
        if norm.training or uses[conv] > 1 or uses[norm] > 1:
            continue
        _fold(conv, norm)
        setattr(parent, name, nn.Identity())
        folded += 1
    return folded


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Conv2d | DeformConv2d, str, Norm]]:
    """Parent, convolution, name of the normalisation and the normalisation."""
    for parent in model.modules():
        children = dict(parent.named_children())
        names = list(children)
        if isinstance(parent, nn.Sequential):
            candidates = list(pairwise(names))
        else:
            candidates = [(name, f"bn{name[4:]}") for name in names if name.startswith("conv")]
        for first, second in candidates:
            conv, norm = children[first], children.get(second)
            # A subclass may do more, such as an activation. A norm before its convolution (pre-activation) is no pair.
            plain = type(norm) in (nn.BatchNorm2d, FrozenBatchNorm2d)
            if isinstance(conv, nn.Conv2d | DeformConv2d) and plain and names.index(first) < names.index(second):
                assert isinstance(norm, Norm)
                yield parent, conv, second, norm


def _fold(conv: nn.Conv2d | DeformConv2d, norm: Norm) -> None:
    """In double precision: the weights are rounded once, as they were before."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
