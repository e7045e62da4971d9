"""Random calls of the RoI poolings, right and wrong ones, forward and backward."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dcn.ops import deform_ps_roi_pool, deform_roi_pool, ps_roi_align, ps_roi_pool, roi_align, roi_pool
from tests.slow.fuzz_draws import DTYPES, WIDE, called, numbers, poisoned, relaid, spoiled

_WRONG: dict[str, tuple[Any, ...]] = {
    "output_size": (0, -1, (3, 0), 2.5, (1, 2, 3)),
    "spatial_scale": (0.0, -1.0, float("nan"), float("inf")),
}
_WRONG_SAMPLES: dict[str, tuple[Any, ...]] = {"sampling_ratio": (5000, 1.5)}


def _boxes(draw: random.Random, images: int, extent: float) -> Tensor:
    """RoIs on, across and off the map, inside out, empty, huge, with NaN and infinity."""
    count = draw.choice([0, 1, 3, 8]) if images else 0
    start = (torch.rand(count, 2) * 1.5 - 0.25) * extent
    size = torch.randn(count, 2).abs() * draw.choice([0.0, 0.3, 1.0, 30.0]) * extent
    if draw.random() < 0.2:
        size = -size
    corners = poisoned(draw, torch.cat([start, start + size], 1))
    return torch.cat([torch.randint(0, max(images, 1), (count, 1)).float(), corners], 1)


def _call(draw: random.Random, groups: int, output_size: tuple[int, int]) -> dict[str, Any]:
    """Map, RoIs, bins and scale: what all RoI poolings take."""
    images, channels, dtype = draw.choice([0, 1, 1, 2, 3]), draw.choice([1, 2, 4, 6, 20, 65]), draw.choice(DTYPES)
    height, width = numbers(draw, 2, 1, 17)
    data = torch.randn(images, min(channels, 400 // groups + 1) * groups, height, width).to(dtype)
    scale = draw.choice([1.0, 0.25, 1 / 16, 3.0])
    boxes = _boxes(draw, images, max(height, width) / scale)
    if draw.random() < 0.3 and dtype in WIDE:
        boxes = boxes.to(dtype)
    return {"input": relaid(draw, data), "boxes": boxes, "output_size": output_size, "spatial_scale": scale}


def _deformed(draw: random.Random, call: dict[str, Any], classes: int, parts: tuple[int, int]) -> None:
    """Offsets and a mask, or neither."""
    rois, dtype = call["boxes"].shape[0], call["input"].dtype
    offset = poisoned(draw, torch.randn(rois, 2 * classes, *parts) * draw.choice([0.0, 1.0, 20.0]))
    call["offset"] = offset.to(dtype) if draw.random() < 0.8 else None
    call["mask"] = torch.rand(rois, 1, *call["output_size"]).to(dtype) if draw.random() < 0.5 else None


def _run(draw: random.Random, function: Callable[..., Tensor], call: dict[str, Any], samples: bool) -> bool:
    finite = call["input"].dtype in WIDE
    wrong, must = draw.random() < 0.25, False
    if wrong:
        if draw.random() < 0.15 and call["boxes"].shape[0]:
            must = True
            call["boxes"][0, 0] = draw.choice([-1.0, call["input"].shape[0], 1e30, float("nan")])
        else:
            must = spoiled(draw, call, _WRONG | (_WRONG_SAMPLES if samples else {}))
    for name in ("input", "offset", "mask"):
        if call.get(name) is not None and call[name].is_floating_point():
            call[name] = call[name].detach().requires_grad_()
    output = called(function, call, wrong, must)
    if output is None:
        return False
    output.sum().backward()
    if finite and not bool(output.isfinite().all()):
        raise AssertionError("an output that is not finite from finite data")
    if finite and not bool(call["input"].grad.isfinite().all()):
        raise AssertionError("a gradient of the input that is not finite from finite data")
    return True


def align(draw: random.Random) -> bool:
    """RoIAlign, both placements."""
    call = _call(draw, 1, (draw.randint(1, 7), draw.randint(1, 7)))
    call |= {"sampling_ratio": draw.choice([-1, 0, 1, 2, 5]), "aligned": draw.random() < 0.5}
    return _run(draw, roi_align, call, True)


def maximum(draw: random.Random) -> bool:
    """RoI max pooling."""
    return _run(draw, roi_pool, _call(draw, 1, (draw.randint(1, 7), draw.randint(1, 7))), False)


def position_sensitive_align(draw: random.Random) -> bool:
    """Position-sensitive RoIAlign."""
    rows, columns = numbers(draw, 2, 1, 5)
    call = _call(draw, rows * columns, (rows, columns)) | {"sampling_ratio": draw.choice([-1, 0, 1, 3])}
    return _run(draw, ps_roi_align, call, True)


def position_sensitive_pool(draw: random.Random) -> bool:
    """Position-sensitive RoI pooling, both roundings."""
    group, rounding = draw.randint(1, 4), draw.choice(["before_scale", "after_scale"])
    size = (group, group) if rounding == "after_scale" else (draw.randint(1, 7), draw.randint(1, 7))
    call = _call(draw, group * group, size) | {"group_size": group, "rounding": rounding}
    return _run(draw, ps_roi_pool, call, False)


def deformable(draw: random.Random) -> bool:
    """Deformable RoI pooling in the form of RoIAlign."""
    call = _call(draw, 1, (draw.randint(1, 7), draw.randint(1, 7)))
    _deformed(draw, call, 1, call["output_size"])
    call |= {"sampling_ratio": draw.choice([0, 1, 2, 4]), "gamma": draw.choice([0.0, 0.1, 1.0])}
    return _run(draw, deform_roi_pool, call, True)


def deformable_parts(draw: random.Random) -> bool:
    """Deformable position-sensitive RoI pooling of the paper's code, class-aware or not."""
    group, parts = draw.choice([1, 1, 2, 3]), (draw.randint(1, 7), draw.randint(1, 7))
    call = _call(draw, group * group, (draw.randint(1, 7), draw.randint(1, 7)))
    channels = call["input"].shape[1] // group**2
    _deformed(draw, call, draw.choice([k for k in range(1, channels + 1) if channels % k == 0]), parts)
    call |= {"group_size": group, "sample_per_part": draw.randint(1, 5), "trans_std": draw.choice([0.0, 0.1, 2.0])}
    return _run(draw, deform_ps_roi_pool, call, False)
