"""Random calls of suppression and box voting, right and wrong ones."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from dcn.ops import box_voting, nms, nms_keep, soft_nms
from tests.slow.fuzz_draws import DTYPES, called, poisoned, spoiled

_NAN = float("nan")


def _boxes(draw: random.Random, count: int, dtype: torch.dtype) -> Tensor:
    start = torch.rand(count, 2) * draw.choice([1.0, 50.0])
    size = torch.randn(count, 2) * draw.choice([0.0, 5.0, 40.0])
    return poisoned(draw, torch.cat([start, start + size.abs() if draw.random() < 0.8 else start + size], 1)).to(dtype)


def _call(draw: random.Random) -> dict[str, Any]:
    count, dtype = draw.choice([0, 1, 2, 17, 64, 150]), draw.choice(DTYPES)
    scores = poisoned(draw, torch.rand(count).mul(draw.choice([1.0, 8.0])).round(decimals=draw.choice([0, 1, 6])))
    call: dict[str, Any] = {"boxes": _boxes(draw, count, dtype), "scores": scores.to(dtype)}
    if draw.random() < 0.5:
        call["labels"] = torch.randint(0, 4, (count,), dtype=draw.choice([torch.int64, torch.int32, torch.uint8]))
    return call | {"plus_one": draw.random() < 0.5}


def _spoiled(draw: random.Random, call: dict[str, Any], wrong_numbers: dict[str, tuple[Any, ...]]) -> tuple[bool, bool]:
    """Whether the call may, and whether it must be refused."""
    wrong = draw.random() < 0.25
    return wrong, wrong and spoiled(draw, call, wrong_numbers)


def suppression(draw: random.Random) -> bool:
    """Greedy suppression: distinct indices in range, best first, the first of the best among them."""
    call = _call(draw) | {"iou_threshold": draw.choice([0.0, 0.3, 0.5, 1.0]), "suppress_equal": draw.random() < 0.5}
    call["max_output"] = draw.choice([None, 0, 1, 10])
    may, must = _spoiled(draw, call, {"iou_threshold": (_NAN, "0.5"), "max_output": (-1, 1.5), "plus_one": (3, "yes")})
    kept = called(nms, call, may, must)
    if kept is None:
        return False
    if kept.unique().numel() != kept.numel() or not bool(((kept >= 0) & (kept < call["boxes"].shape[0])).all()):
        raise AssertionError(f"indices that are not distinct, or not of boxes: {kept.tolist()}")
    return True


def suppression_mask(draw: random.Random) -> bool:
    """Suppression of several sets as a mask, which must be that of the sets one by one."""
    call = _call(draw) | {"iou_threshold": draw.choice([0.0, 0.3, 0.5, 1.0]), "suppress_equal": draw.random() < 0.5}
    may, must = _spoiled(draw, call, {"iou_threshold": (_NAN, "0.5"), "suppress_equal": (3,)})
    if not may:
        for name in ("boxes", "scores", "labels"):
            if name in call:
                call[name] = torch.stack([call[name], call[name].flip(0)])
    mask = called(nms_keep, call, may, must)
    if mask is None:
        return False
    if not may and mask.shape == call["scores"].shape:
        for one in range(2):
            single: dict[str, Any] = {n: v[one] if isinstance(v, Tensor) else v for n, v in call.items()}
            if set(nms(**single).tolist()) != set(mask[one].nonzero()[:, 0].tolist()):
                raise AssertionError("the mask of a set is not what nms keeps of it")
    return True


def soft_suppression(draw: random.Random) -> bool:
    """Soft suppression: distinct indices with scores that do not grow."""
    call = _call(draw) | {"method": draw.choice(["gaussian", "linear"]), "sigma": draw.choice([0.1, 0.5, 3.0])}
    call |= {"iou_threshold": draw.choice([0.0, 0.3, 1.0]), "max_output": draw.choice([None, 0, 1, 10])}
    may, must = _spoiled(draw, call, {"sigma": (0.0, -1.0, _NAN), "method": ("cubic", None), "max_output": (-1,)})
    actual = called(soft_nms, call, may, must)
    if actual is None:
        return False
    kept, scores = actual
    if kept.unique().numel() != kept.numel() or not bool((scores[1:] <= scores[:-1]).all()):
        raise AssertionError("indices twice, or scores that grow")
    return True


def voting(draw: random.Random) -> bool:
    """Box voting: one box per detection."""
    call = _call(draw) | {"iou_threshold": draw.choice([0.0, 0.5, 1.0])}
    chosen = torch.rand(call["boxes"].shape[0]) < 0.3
    call["kept"] = call["boxes"][chosen]
    if "labels" in call:
        call["kept_labels"] = call["labels"][chosen]
    may, must = _spoiled(draw, call, {"iou_threshold": (_NAN, "0.5"), "plus_one": (3,)})
    actual = called(box_voting, call, may, must)
    if actual is None:
        return False
    if actual.shape != call["kept"].shape:
        raise AssertionError(f"expected shape {list(call['kept'].shape)}, got {list(actual.shape)}")
    return True
