"""Random calls of the operators, right and wrong ones: nothing may crash, wrong calls must be ValueErrors.

    python -m tests.slow.fuzz_operators --calls 20000 --seed 0

With an AddressSanitizer build of the CPU library (with clang, or where libubsan can be preloaded too, also
``address,undefined``):

    cmake -S . -B build/asan -DDCN_SANITIZE=address && cmake --build build/asan
    DCN_CPU_LIBRARY=build/asan/libdcn_cpu.so ASAN_OPTIONS=detect_leaks=0 \
        LD_PRELOAD=$(c++ -print-file-name=libasan.so) python -m tests.slow.fuzz_operators

A failure prints the operator and its seed; ``--seed SEED --calls 1 --operator NAME`` repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from dcn.ops import deform_conv1d, deform_conv2d, deform_conv3d
from dcn.ops.deform_conv import output_size
from tests.slow import fuzz_attention, fuzz_boxes, fuzz_dcnv3, fuzz_rois, fuzz_transposed
from tests.slow.fuzz_draws import BAD, DTYPES, check_refusal, numbers, relaid, resized

_CONVS: dict[int, Callable[..., Tensor]] = {1: deform_conv1d, 2: deform_conv2d, 3: deform_conv3d}


def _deform_conv(draw: random.Random) -> bool:
    n = draw.choice([1, 2, 2, 2, 2, 3])
    kernel, stride, padding = numbers(draw, n, 1, 4), numbers(draw, n, 1, 3), numbers(draw, n, 0, 4)
    dilation, size = numbers(draw, n, 1, 3), numbers(draw, n, 1, 9 if n == 3 else 17)
    groups, offset_groups = draw.choice([1, 1, 2, 4]), draw.choice([1, 2, 4])
    channels, outputs = 4 * draw.choice([1, 2, 3, 4, 5, 18]), groups * draw.choice([1, 2, 3, 5, 6, 17, 40])
    if draw.random() < 0.2:
        groups = outputs = channels
    batch, dtype, taps = draw.choice([0, 1, 1, 2, 5]), draw.choice(DTYPES), offset_groups * prod(kernel)
    out = tuple(max(0, o) for o in output_size(size, kernel, stride, padding, dilation))
    offset = torch.randn(batch, n * taps, *out) * draw.choice([0.0, 0.5, 3.0, 40.0])
    if draw.random() < 0.5:
        offset = offset.masked_fill(torch.rand(offset.shape) < 0.1, draw.choice(BAD))
    tensors: dict[str, Tensor | None] = {
        "input": torch.randn(batch, channels, *size),
        "offset": offset,
        "weight": torch.randn(outputs, channels // groups, *kernel),
        "bias": torch.randn(outputs) if draw.random() < 0.5 else None,
        "mask": torch.rand(batch, taps, *out) if draw.random() < 0.5 else None,
    }
    made = {name: None if t is None else t.to(dtype) for name, t in tensors.items()}
    wrong = draw.random() < 0.25
    if wrong:
        name = draw.choice([name for name, t in made.items() if t is not None])
        tensor = made[name]
        made[name] = None if tensor is None else resized(draw, tensor)
    leaves = [None if t is None else (t if t.ndim < 3 else relaid(draw, t)).requires_grad_() for t in made.values()]
    boundary = draw.choice(["v1", "v2"])
    x, offsets, weight, bias, mask = leaves
    try:
        output = _CONVS[n](x, offsets, weight, bias, stride, padding, dilation, mask, boundary=boundary)
    except ValueError as error:
        check_refusal(_CONVS[n], str(error), wrong or min(out) < 1)
        return False
    output.sum().backward()
    if dtype in (torch.float32, torch.float64) and not bool(output.isfinite().all()):
        raise AssertionError("an output that is not finite from finite data")
    return True


OPERATORS: dict[str, Callable[[random.Random], bool]] = {
    "deform_conv": _deform_conv,
    "dcnv3": fuzz_dcnv3.separate,
    "dcnv4": fuzz_dcnv3.fused,
    "deform_conv_transpose": fuzz_transposed.transposed,
    "roi_align": fuzz_rois.align,
    "roi_pool": fuzz_rois.maximum,
    "ps_roi_align": fuzz_rois.position_sensitive_align,
    "ps_roi_pool": fuzz_rois.position_sensitive_pool,
    "deform_roi_pool": fuzz_rois.deformable,
    "deform_ps_roi_pool": fuzz_rois.deformable_parts,
    "ms_deform_attn": fuzz_attention.attention,
    "nms": fuzz_boxes.suppression,
    "nms_keep": fuzz_boxes.suppression_mask,
    "soft_nms": fuzz_boxes.soft_suppression,
    "box_voting": fuzz_boxes.voting,
}
"""One random call each, from the generator; whether it was computed (a refused wrong call is not)."""


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="calls per operator")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the others follow")
    parser.add_argument("--operator", choices=sorted(OPERATORS), help="only this one")
    options = parser.parse_args()
    for name, operator in OPERATORS.items():
        if options.operator not in (None, name):
            continue
        computed = 0
        for seed in range(options.seed, options.seed + options.calls):
            torch.manual_seed(seed)
            try:
                computed += operator(random.Random(seed))
            except Exception:
                print(f"{name}: seed {seed} failed", flush=True)
                raise
        seeds = f"seeds {options.seed}..{options.seed + options.calls - 1}"
        print(f"{name}: {options.calls} calls, {seeds}, {computed} computed, the others refused as they should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
