"""Random calls of the operators, right and wrong ones: nothing may crash, wrong calls must be ValueErrors.

    python tests/slow/fuzz_operators.py --calls 20000 --seed 0

With an AddressSanitizer build of the CPU library:

    cmake -S . -B build/asan -DCMAKE_CXX_FLAGS=-fsanitize=address && cmake --build build/asan
    DCN_CPU_LIBRARY=build/asan/libdcn_cpu.so ASAN_OPTIONS=detect_leaks=0 \
        LD_PRELOAD=$(c++ -print-file-name=libasan.so) python tests/slow/fuzz_operators.py

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

_CONVS: dict[int, Callable[..., Tensor]] = {1: deform_conv1d, 2: deform_conv2d, 3: deform_conv3d}
_BAD = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9, -3e9, 1e5)
_DTYPES = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _numbers(draw: random.Random, n: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(draw.randint(low, high) for _ in range(n))


def _relaid(draw: random.Random, tensor: Tensor) -> Tensor:
    """The same values, perhaps in another memory layout."""
    how = draw.randrange(4)
    if how == 1:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if how == 2:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    return tensor.repeat_interleave(2, dim=-1)[..., ::2] if how == 3 else tensor


def _spoiled(draw: random.Random, tensor: Tensor) -> Tensor:
    """Another size along one axis: half of the calls made with it are wrong."""
    axis = draw.randrange(tensor.ndim)
    size = list(tensor.shape)
    size[axis] = max(0, size[axis] + draw.choice([-1, 1, 2]))
    return torch.zeros(size, dtype=tensor.dtype)


def _deform_conv(draw: random.Random) -> bool:
    n = draw.choice([1, 2, 2, 2, 2, 3])
    kernel, stride, padding = _numbers(draw, n, 1, 4), _numbers(draw, n, 1, 3), _numbers(draw, n, 0, 4)
    dilation, size = _numbers(draw, n, 1, 3), _numbers(draw, n, 1, 9 if n == 3 else 17)
    groups, offset_groups = draw.choice([1, 1, 2, 4]), draw.choice([1, 2, 4])
    channels, outputs = 4 * draw.randint(1, 5), groups * draw.randint(1, 6)
    if draw.random() < 0.2:
        groups = outputs = channels
    batch, dtype, taps = draw.choice([0, 1, 1, 2, 5]), draw.choice(_DTYPES), offset_groups * prod(kernel)
    out = tuple(max(0, o) for o in output_size(size, kernel, stride, padding, dilation))
    offset = torch.randn(batch, n * taps, *out) * draw.choice([0.0, 0.5, 3.0, 40.0])
    if draw.random() < 0.5:
        offset = offset.masked_fill(torch.rand(offset.shape) < 0.1, draw.choice(_BAD))
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
        made[name] = None if tensor is None else _spoiled(draw, tensor)
    leaves = [None if t is None else (t if t.ndim < 3 else _relaid(draw, t)).requires_grad_() for t in made.values()]
    boundary = draw.choice(["v1", "v2"])
    x, offsets, weight, bias, mask = leaves
    try:
        output = _CONVS[n](x, offsets, weight, bias, stride, padding, dilation, mask, boundary=boundary)
    except ValueError as error:
        _check_message(str(error), wrong or min(out) < 1)
        return False
    output.sum().backward()
    if dtype in (torch.float32, torch.float64) and not bool(output.isfinite().all()):
        raise AssertionError("an output that is not finite from finite data")
    return True


def _check_message(message: str, expected: bool) -> None:
    if not expected:
        raise AssertionError(f"a right call was refused: {message}")
    name = message.split(":", maxsplit=1)[0]
    if name not in ("input", "offset", "weight", "bias", "mask") or "expected" not in message or "got" not in message:
        raise AssertionError(f"a message that does not name argument, expectation and what came: {message}")


OPERATORS: dict[str, Callable[[random.Random], bool]] = {"deform_conv": _deform_conv}
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
