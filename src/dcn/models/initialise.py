"""Initial values of new layers."""

from __future__ import annotations

from torch import nn


def initialise(module: nn.Module) -> None:
    """Normal weights of deviation 0.01 and zero biases for every convolution and linear layer (the original's rule)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
