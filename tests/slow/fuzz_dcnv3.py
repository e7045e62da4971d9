"""Random calls of DCNv3 and DCNv4, right and wrong ones, forward and backward."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dcn.ops import dcnv3, dcnv4
from tests.slow.fuzz_draws import DTYPES, WIDE, called, numbers, poisoned, relaid, spoiled

_WRONG: dict[str, tuple[Any, ...]] = {
    "kernel_size": (0, -1, (3, 0), 2.5, (1, 2, 3)),
    "stride": (0, (1, -1), 1.5),
    "padding": (-1, "same"),
    "dilation": (0, (1, 0)),
    "groups": (0, -2, 1.0, True),
    "offset_scale": (float("nan"), float("inf"), "1"),
    "remove_center": (1, None),
    "softmax": (0, "yes"),
}


def _call(draw: random.Random, fused: bool) -> tuple[dict[str, Any], bool]:
    """The arguments, and whether they are right: a random geometry may leave no location or no tap."""
    kernel, stride, padding = numbers(draw, 2, 1, 4), numbers(draw, 2, 1, 3), numbers(draw, 2, 0, 4)
    dilation, (height, width) = numbers(draw, 2, 1, 3), numbers(draw, 2, 1, 17)
    groups, depth = draw.choice([1, 1, 2, 3, 4, 37]), draw.choice([1, 2, 3, 4, 8, 15, 16, 17, 33, 64])
    batch, dtype, remove_center = draw.choice([0, 1, 1, 2, 5]), draw.choice(DTYPES), draw.random() < 0.3
    taps = kernel[0] * kernel[1] - remove_center
    reach = [
        size + 2 * p - d * (k - 1) for size, p, d, k in zip((height, width), padding, dilation, kernel, strict=True)
    ]
    out = [max(0, (r - 1) // step + 1) for r, step in zip(reach, stride, strict=True)]
    beside = torch.float32 if dtype not in WIDE and draw.random() < 0.5 else dtype
    offset = poisoned(draw, torch.randn(batch, *out, groups, 2 * taps) * draw.choice([0.0, 0.5, 3.0, 40.0]))
    mask = torch.randn(batch, *out, groups, taps)
    call: dict[str, Any] = {"input": relaid(draw, torch.randn(batch, height, width, groups * depth).to(dtype))}
    if fused:
        joined = torch.nn.functional.pad(torch.cat((offset, mask), -1).flatten(-2), (0, draw.choice([0, 1, 5])))
        call["offset_mask"] = relaid(draw, joined.to(beside))
    else:
        call["offset"], call["mask"] = (
            relaid(draw, offset.flatten(-2).to(beside)),
            relaid(draw, mask.flatten(-2).to(dtype)),
        )
    call |= {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    call |= {"offset_scale": draw.choice([1.0, 1.0, 0.5, -2.0, 0.0]), "remove_center": remove_center}
    call["softmax"] = draw.random() < 0.5
    return call, min(out) > 0 and taps > 0


def _run(draw: random.Random, function: Callable[..., Tensor], fused: bool) -> bool:
    call, right = _call(draw, fused)
    finite = call["input"].dtype in WIDE
    wrong, must = draw.random() < 0.25, False
    if wrong:
        must = spoiled(draw, call, _WRONG)
    for name in ("input", "offset", "mask", "offset_mask"):
        if name in call and call[name].is_floating_point():
            call[name] = call[name].detach().requires_grad_()
    output = called(function, call, wrong or not right, must or not right)
    if output is None:
        return False
    output.sum().backward()
    if finite and not bool(output.isfinite().all()):
        raise AssertionError("an output that is not finite from finite data")
    return True


def separate(draw: random.Random) -> bool:
    return _run(draw, dcnv3, fused=False)


def fused(draw: random.Random) -> bool:
    return _run(draw, dcnv4, fused=True)
