"""Random calls of multi-scale deformable attention, right and wrong ones, forward and backward."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from dcn.ops import ms_deform_attn
from tests.slow.fuzz_draws import DTYPES, WIDE, called, poisoned, relaid, spoiled


def _levels(draw: random.Random, call: dict[str, Any], shapes: Tensor) -> int:
    """Adds the levels to the call; how many pixels they need. Some overlap, leave gaps, or stand in another order."""
    areas = shapes.prod(1)
    starts, cells = areas.cumsum(0) - areas, int(areas.sum())
    how = draw.randrange(8)
    if how == 0:
        starts = starts + draw.randint(0, 5)
    elif how == 1:
        starts = torch.tensor([draw.randint(0, 7) for _ in starts], dtype=torch.int64)
    elif how == 2:
        starts = starts.sum() - starts if len(starts) == 2 and areas[0] == areas[1] else starts
    pairs = draw.random() < 0.2
    call["spatial_shapes"] = shapes.tolist() if pairs else shapes.to(draw.choice([torch.int64, torch.int32]))
    # Without a tensor of shapes there is nothing that tells where its rows begin but the sum of the areas.
    call["level_start_index"] = None if pairs or (how > 2 and draw.random() < 0.5) else starts
    used = areas.cumsum(0) - areas if call["level_start_index"] is None else starts
    return max([cells, *(used + areas).tolist()])


def _spoiled_levels(draw: random.Random, call: dict[str, Any], pixels: int) -> bool:
    """Levels that do not lie within the values."""
    shapes = torch.as_tensor(call["spatial_shapes"]).long().reshape(-1, 2)
    if not len(shapes):
        return False
    call["spatial_shapes"], starts = shapes, torch.zeros(len(shapes), dtype=torch.int64)
    starts[draw.randrange(len(shapes))] = draw.choice([-1, pixels + 1, 2**40, -(2**40)])
    if draw.random() < 0.5:
        starts.zero_()
        shapes[draw.randrange(len(shapes)), draw.randrange(2)] = draw.choice([-1, -(2**31), 2**31, 2**62])
        shapes[shapes == 0] = 1
    call["level_start_index"] = starts
    return True


def attention(draw: random.Random) -> bool:
    """Multi-scale deformable attention."""
    call: dict[str, Any] = {"value": None}
    levels = draw.choice([0, 1, 1, 2, 3, 4])
    shapes = torch.tensor([(draw.randint(0, 9), draw.randint(0, 9)) for _ in range(levels)], dtype=torch.int64)
    pixels = _levels(draw, call, shapes.reshape(-1, 2))
    batch, heads, queries = draw.choice([0, 1, 1, 2, 3]), draw.choice([0, 1, 2, 3, 8]), draw.choice([0, 1, 5, 70])
    channels, points = draw.choice([0, 1, 3, 8, 16, 31, 32, 64, 65]), draw.choice([0, 1, 2, 4, 9])
    dtype = draw.choice(DTYPES)
    cells = torch.float32 if dtype not in WIDE and draw.random() < 0.5 else dtype
    call["value"] = relaid(draw, torch.randn(batch, pixels, heads, channels).to(dtype))
    samples = (batch, queries, heads, levels, points)
    locations = torch.rand(*samples, 2) * draw.choice([1.0, 3.0, 100.0]) - draw.choice([0.0, 0.5])
    call["sampling_locations"] = relaid(draw, poisoned(draw, locations).to(cells))
    call["attention_weights"] = relaid(draw, torch.randn(samples).to(dtype))
    wrong, must = draw.random() < 0.25, False
    if wrong:
        must = _spoiled_levels(draw, call, pixels) if draw.random() < 0.4 else spoiled(draw, call, {})
    leaves = [name for name in ("value", "sampling_locations", "attention_weights") if call[name].is_floating_point()]
    for name in leaves:
        call[name] = call[name].detach().requires_grad_()
    output = called(ms_deform_attn, call, wrong, must)
    if output is None:
        return False
    output.sum().backward()
    if dtype in WIDE and not all(bool(t.isfinite().all()) for t in (output, *(call[name].grad for name in leaves))):
        raise AssertionError("an output or a gradient that is not finite from finite data")
    return True
