"""Random calls of transposed deformable convolution for fuzz_operators.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from dcn.ops import deform_conv_transpose1d, deform_conv_transpose2d, deform_conv_transpose3d
from dcn.ops.deform_conv_transpose import output_size
from tests.slow.fuzz_draws import BAD, DTYPES, check_refusal, numbers, relaid, resized

_CONVS: dict[int, Callable[..., Tensor]] = {
    1: deform_conv_transpose1d,
    2: deform_conv_transpose2d,
    3: deform_conv_transpose3d,
}


def transposed(draw: random.Random) -> bool:
    """One call; whether it was computed."""
    n = draw.choice([1, 2, 2, 2, 3])
    kernel, stride, padding = numbers(draw, n, 1, 4), numbers(draw, n, 1, 3), numbers(draw, n, 0, 3)
    dilation, size, more = numbers(draw, n, 1, 3), numbers(draw, n, 1, 5 if n == 3 else 9), numbers(draw, n, 0, 2)
    groups = draw.choice([1, 1, 2, 4])
    channels, outputs = groups * draw.randint(1, 6), 4 * draw.randint(1, 5)
    batch, dtype, taps = draw.choice([0, 1, 1, 2, 5]), draw.choice(DTYPES), prod(kernel)
    offset = torch.randn(batch, n * draw.choice([1, 2, 4]) * taps, *size) * draw.choice([0.0, 0.5, 3.0, 40.0])
    if draw.random() < 0.5:
        offset = offset.masked_fill(torch.rand(offset.shape) < 0.1, draw.choice(BAD))
    tensors: dict[str, Tensor | None] = {
        "input": torch.randn(batch, channels, *size),
        "offset": offset,
        "weight": torch.randn(channels, outputs // groups, *kernel),
        "bias": torch.randn(outputs) if draw.random() < 0.5 else None,
        "mask": torch.rand(batch, draw.choice([1, 2, 4]) * taps, *size) if draw.random() < 0.5 else None,
    }
    made = {name: None if t is None else t.to(dtype) for name, t in tensors.items()}
    out = output_size(size, kernel, stride, padding, more, dilation)
    reachable = all(m < max(s, d) for m, s, d in zip(more, stride, dilation, strict=True))
    wrong = draw.random() < 0.25 or min(out) < 1 or not reachable
    if wrong and min(out) >= 1 and reachable:
        name = draw.choice([name for name, t in made.items() if t is not None])
        tensor = made[name]
        made[name] = None if tensor is None else resized(draw, tensor)
    leaves = [None if t is None else (t if t.ndim < 3 else relaid(draw, t)).requires_grad_() for t in made.values()]
    x, offsets, weight, bias, mask = leaves
    boundary = draw.choice(["v1", "v2"])
    call = (x, offsets, weight, bias, stride, padding, more, groups, dilation, mask)
    try:
        output = _CONVS[n](*call, boundary=boundary)
    except ValueError as error:
        check_refusal(_CONVS[n], str(error), wrong)
        return False
    output.sum().backward()
    if dtype in (torch.float32, torch.float64) and not bool(output.isfinite().all()):
        raise AssertionError("an output that is not finite from finite data")
    return True
