"""ImageNet ResNets under torchvision's names, with batch norm or with batch norm folded into the convolutions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_EPS = 1e-5


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a torchvision ResNet with batch norm."""
    return "conv1.weight" in state and "bn1.weight" in state and "layer1.0.conv1.weight" in state


def is_folded(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a ResNet whose convolutions have biases and which has no batch norm."""
    return "conv1.bias" in state and "bn1.weight" not in state and "layer1.0.conv1.bias" in state


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone alone: everything but the classifier ``fc``."""
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def from_folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same model with batch norms that do nothing but add the convolutions' biases.

    Their scale is 1, their mean 0 and their variance ``1 - eps``, so that ``1 / sqrt(variance + eps)`` is exactly 1.
    """
    result: dict[str, Tensor] = {}
    for name, value in from_torchvision(state).items():
        conv, _, kind = name.rpartition(".")
        layer, norm = _names(conv)
        if kind == "weight":
            result[f"{layer}.weight"] = value
        else:
            result[f"{norm}.weight"] = torch.ones_like(value)
            result[f"{norm}.bias"] = value
            result[f"{norm}.running_mean"] = torch.zeros_like(value)
            result[f"{norm}.running_var"] = torch.full_like(value, 1 - _EPS)
    return result


def _names(conv: str) -> tuple[str, str]:
    """Names of a convolution and of its batch norm in our models."""
    if conv.endswith("downsample"):
        return f"{conv}.0", f"{conv}.1"
    block, dot, last = conv.rpartition(".")
    return conv, block + dot + last.replace("conv", "bn")
