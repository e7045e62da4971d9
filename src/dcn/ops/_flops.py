"""Operations of deformable convolution for ``torch.utils.flop_counter.FlopCounterMode``; it takes unknown ones for 0.

As there, a multiplication and an addition are two operations, and only matrix products and convolutions count:
sampling does not, and so the operators without a weight tensor do not either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from types import ModuleType
from typing import Any

import torch

from dcn.on_import import when_imported

MODULE = "torch.utils.flop_counter"
Shape = Sequence[int]
Product = Callable[[Shape, Shape, Shape], int]


def _convolution(input: Shape, offset: Shape, weight: Shape) -> int:
    """Every output location, of which there is one for each offset, times the weights: ``[O, C/g, *kernel]``."""
    return 2 * input[0] * prod(offset[2:]) * prod(weight)


def _transposed(input: Shape, offset: Shape, weight: Shape) -> int:
    """Every input location times the weights: ``[g, C/g, O/g, *kernel]``."""
    return 2 * input[0] * prod(input[2:]) * prod(weight)


def _forward(count: Product) -> Callable[..., int]:
    def flops(input: Shape, offset: Shape, weight: Shape, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return count(input, offset, weight)

    return flops


def _backward(count: Product) -> Callable[..., int]:
    """A product for what is sampled (input, offset, mask) and one for the weight, where they are needed."""

    def flops(grad: Shape, input: Shape, offset: Shape, weight: Shape, *rest: Any, out_shape: Any = None) -> int:
        needs = rest[-1]
        return count(input, offset, weight) * (int(needs[0] or needs[1] or needs[4]) + int(needs[2]))

    return flops


def _register(module: ModuleType) -> None:
    known = module.flop_registry
    for name, count in (("deform_conv", _convolution), ("deform_conv_transpose", _transposed)):
        for packet, flops in ((name, _forward(count)), (f"{name}_backward", _backward(count))):
            operator = getattr(torch.ops.dcn, packet)
            if operator not in known:
                module.register_flop_formula(operator)(flops)


def watch() -> None:
    """Register the formulas when torch's counter is imported."""
    when_imported(MODULE, _register)
